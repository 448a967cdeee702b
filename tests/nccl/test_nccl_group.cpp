// A group of one by NCCL itself, which communicators do without: where there is one GPU, all that can be tried there.

#include <array>
#include <chrono>
#include <string>
#include <vector>

#include "../cuda/cuda_device.h"
#include "checks.h"
#include "tapecache/core/tensor.h"
#include "tapecache/distributed/nccl/nccl_group.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace std::chrono_literals;
using Reduction = distributed::Communicator::Reduction;
using distributed::detail::Deadline;
using distributed::detail::nccl_library;
using distributed::detail::NcclGroup;

namespace {

/// The precondition of a test that needs NCCL.
boost::test_tools::assertion_result needs_nccl(boost::unit_test::test_unit_id id) {
  if (nccl_library().functions) return true;
  return skip(id, nccl_library().why_not);
}

const auto with_nccl = boost::unit_test::precondition(needs_nccl);

}  // namespace

BOOST_AUTO_TEST_SUITE(nccl_group)

BOOST_AUTO_TEST_CASE(a_group_of_one_makes_every_call, *on_device* with_nccl) {
  const distributed::detail::NcclFunctions& nccl = *nccl_library().functions;
  BOOST_TEST_MESSAGE("NCCL " << nccl_library().version);
  ncclUniqueId id{};
  check_nccl(nccl, "ncclGetUniqueId", nccl.get_unique_id(&id));
  const Deadline soon(60s);
  NcclGroup group(nccl, kCuda.index, 0, 1, id, soon, [] { return std::string(); });
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kInt64}) {
    // What NCCL is given is still to be computed, by work that was queued before.
    const Tensor given = Tensor::full({300, 7}, 2, dtype);
    Tensor values = given.to(kCuda), other = Tensor::zeros({300, 7}, dtype, kCuda);
    if (is_floating(dtype)) values.accumulate(given.to(kCuda));
    const std::vector<double> expected(2100, is_floating(dtype) ? 4 : 2);
    const std::array<std::size_t, 1> bytes{values.bytes()}, elements{2100};
    group.all_reduce(soon, values.mutable_raw(), elements[0], dtype, Reduction::kSum);
    group.all_reduce(soon, values.mutable_raw(), elements[0], dtype, Reduction::kMax);
    group.broadcast(soon, values.mutable_raw(), bytes[0], 0);
    check_equal(values.to(Device::cpu()), expected);
    group.all_gather(soon, values.raw(), other.mutable_raw(), bytes);
    check_equal(other.to(Device::cpu()), expected);
    other.copy_from(Tensor::zeros({300, 7}, dtype, kCuda));
    group.reduce_scatter(soon, values.raw(), other.mutable_raw(), elements, dtype);
    check_equal(other.to(Device::cpu()), expected);
    other.copy_from(Tensor::zeros({300, 7}, dtype, kCuda));
    group.send_receive(soon, values.raw(), bytes[0], 0, other.mutable_raw(), bytes[0], 0);
    check_equal(other.to(Device::cpu()), expected);
  }
  group.finish(soon);
}

BOOST_AUTO_TEST_CASE(a_group_is_given_up_where_it_is_of_no_use, *on_device* with_nccl) {
  const distributed::detail::NcclFunctions& nccl = *nccl_library().functions;
  ncclUniqueId id{};
  check_nccl(nccl, "ncclGetUniqueId", nccl.get_unique_id(&id));
  // One of two that never comes.
  const auto begun = std::chrono::steady_clock::now();
  try {
    NcclGroup group(nccl, kCuda.index, 0, 2, id, Deadline(300ms), [] { return std::string(); });
    BOOST_ERROR("a group without its second rank");
  } catch (const distributed::detail::NcclFailure& failure) {
    BOOST_TEST(failure.message.find("has not ended within 300 ms") != std::string::npos, failure.message);
  }
  BOOST_TEST((std::chrono::steady_clock::now() - begun < 30s));
}

BOOST_AUTO_TEST_SUITE_END()
