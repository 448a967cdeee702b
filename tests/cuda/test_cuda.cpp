#include <cmath>
#include <cstdint>
#include <limits>

#include "all_types.h"
#include "checks.h"
#include "cuda_device.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(copies_keep_every_type, *on_device) {
  for (const DType dtype : kAllTypes) {
    const Tensor host = vector_of({0, 1, 2, 100, 0, 7}).to(dtype);
    const Tensor there = host.to(kCuda);
    BOOST_CHECK(there.device() == kCuda && there.dtype() == dtype);
    BOOST_CHECK(there.to(kCuda).shares_storage(there));
    BOOST_CHECK(same_bits(there.to(Device::cpu()), host));
    BOOST_CHECK(same_bits(there.clone(), host));
    BOOST_CHECK(!there.clone().shares_storage(there));
    BOOST_CHECK(same_bits(there.slice(2, 5).to(Device::cpu()), host.slice(2, 5)));
    BOOST_CHECK_EQUAL(there.slice(1, 2).item(), 1);
  }
  BOOST_CHECK(Tensor::zeros({0, 3}).to(kCuda).to(Device::cpu()).shape() == Shape({0, 3}));
}

BOOST_AUTO_TEST_CASE(tf32_is_a_switch, *on_device) {
  // A permission, which cuBLASLt takes for large products of aligned rows. A quarter, as a sum's error grows with its
  // root.
  const Tensor a = random_values({64, 1024}, 1, DType::kFloat32);
  const Tensor b = ops::scale(random_values({1024, 512}, 2, DType::kFloat32), 0.25).value();
  const Tensor exact = ops::matmul(a.to(DType::kFloat64), b.to(DType::kFloat64)).value();
  const auto error = [&] {
    return max_difference(ops::matmul(a.to(kCuda), b.to(kCuda)).value().to(Device::cpu()).to(DType::kFloat64), exact);
  };
  BOOST_CHECK(!Device::tf32_allowed());
  BOOST_CHECK_LE(error(), 1e-5);
  Device::allow_tf32(true);
  const double rounded = error();
  Device::allow_tf32(false);
  BOOST_CHECK_LE(rounded, 5e-3);
  BOOST_CHECK_GT(rounded, 1e-5);
  BOOST_CHECK_LE(error(), 1e-5);
}

BOOST_AUTO_TEST_CASE(types_convert_as_on_the_cpu, *on_device) {
  const Tensor values = vector_of({0, 1, -0.0, 2.75, 100.5, 1.0 / 3, 1e-40, 77});
  for (const DType from : kAllTypes) {
    for (const DType to : kAllTypes) {
      const Tensor host = values.to(from);
      BOOST_CHECK_MESSAGE(same_bits(host.to(kCuda).to(to), host.to(to)), name(from) << " to " << name(to));
    }
  }
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const Tensor special = vector_of({inf, -inf, 1e300, 3.4e38});
  BOOST_CHECK(same_bits(special.to(kCuda).to(DType::kBFloat16), special.to(DType::kBFloat16)));
  BOOST_CHECK(std::isnan(vector_of({nan}).to(kCuda).to(DType::kBFloat16).item()));
  const Tensor beyond = vector_of({nan, 1e30, -1e30, INFINITY, -INFINITY, 255.5, -0.5, 0x1p31, -0x1p63, 0x1p63});
  for (const DType from : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const DType to : {DType::kInt32, DType::kInt64, DType::kUInt8, DType::kBool}) {
      BOOST_CHECK(same_bits(beyond.to(from).to(kCuda).to(to), beyond.to(from).to(to)));
    }
  }
}

BOOST_AUTO_TEST_CASE(fill_and_accumulate, *on_device) {
  for (const DType dtype : kAllTypes) {
    BOOST_CHECK(same_bits(Tensor::full({1000}, 3, dtype, kCuda), Tensor::full({1000}, 3, dtype)));
  }
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    const Tensor a = random_values({70000}, 1, dtype), b = random_values({70000}, 2, dtype);
    Tensor host = a.clone(), there = a.to(kCuda);
    host.accumulate(b);
    there.accumulate(b.to(kCuda));
    BOOST_CHECK(same_bits(there, host));
    BOOST_CHECK_THROW(there.accumulate(b), ShapeError);
    BOOST_CHECK_THROW(there.copy_from(b), ShapeError);
  }
}

BOOST_AUTO_TEST_CASE(memory_is_counted_cached_and_limited, *on_device) {
  Allocator& memory = allocator(kCuda);
  const Device::MemoryStats before = memory.stats();
  {
    const Tensor t = Tensor::empty({1000, 1000}, DType::kFloat32, kCuda);
    BOOST_CHECK_EQUAL(memory.stats().current - before.current, Allocator::block_size(t.bytes()));
  }
  const std::uint64_t asked = memory.stats().system_allocations;
  BOOST_CHECK_EQUAL(memory.stats().current, before.current);
  Tensor::empty({1000, 1000}, DType::kFloat32, kCuda);
  BOOST_CHECK_EQUAL(memory.stats().system_allocations, asked);
  const MemoryLimit limit(memory.stats().current + 1000, kCuda);
  BOOST_CHECK_EXCEPTION(Tensor::empty({1000, 1000}, DType::kFloat32, kCuda), OutOfMemory, says({"4000000 bytes"}));
  Tensor::empty({10}, DType::kFloat32, kCuda);
}

BOOST_AUTO_TEST_CASE(operands_on_two_devices_are_refused, *on_device) {
  const Tensor here = Tensor::zeros({2, 2}), there = here.to(kCuda);
  BOOST_CHECK_EXCEPTION(ops::add(here, there), DeviceError, says({"add", "cuda:0", "cpu"}));
  BOOST_CHECK_EXCEPTION(ops::matmul(there, here), DeviceError, says({"matmul", "cuda:0", "cpu"}));
}

BOOST_AUTO_TEST_SUITE_END()
