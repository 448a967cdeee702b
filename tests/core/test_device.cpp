#include <cstdint>
#include <string>

#include "checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/elementwise.h"

// What is held of devices whether there are any or not.

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(device)

BOOST_AUTO_TEST_CASE(devices_that_are_not_there_are_refused) {
  const Device absent = Device::cuda(Device::cuda_count());
  const std::string asked_for = to_string(absent);
  BOOST_CHECK_EXCEPTION(Tensor::zeros({3}).to(absent), DeviceError, says({"to:", asked_for}));
  BOOST_CHECK_EXCEPTION(Tensor::zeros({3}, DType::kFloat32, absent), DeviceError, says({"allocate:", asked_for}));
  BOOST_CHECK_THROW(absent.name(), DeviceError);
  BOOST_CHECK_THROW(allocator(Device::cuda(-1)), DeviceError);
}

BOOST_AUTO_TEST_CASE(on_the_cpu_a_step_is_called) {
  int calls = 0;
  Tensor drawn;
  CapturedStep step(
      Device::cpu(), [&] { ++calls, drawn = ops::sample_uniform(2, 3); }, 11);
  for (const std::uint32_t t : {3u, 4u, 5u}) {
    step.replay(t);
    begin_random_step(11, t);
    BOOST_TEST(same_bits(drawn, ops::sample_uniform(2, 3)));
  }
  BOOST_TEST(calls == 3);
  BOOST_TEST(!step.captured());
}

BOOST_AUTO_TEST_SUITE_END()
