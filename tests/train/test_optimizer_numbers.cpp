#include <cmath>
#include <vector>

#include "optimizer_checks.h"
#include "tapecache/core/error.h"

// Optimisers on the device under test, by numbers of the host and of the device, against the CPU by numbers of the
// host.

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {}  // namespace

BOOST_AUTO_TEST_SUITE(optimizer_numbers)

BOOST_AUTO_TEST_CASE(numbers_of_the_device_are_as_those_of_the_host, *on_device) {
  const auto held = [](double value) -> Number { return Tensor::full({}, value, DType::kFloat64, kDevice); };
  for (const MakeOptimizer& make : kOptimizers) {
    const std::vector<Parameter> here = mixed_parameters(), there = mixed_parameters();
    move(there, kDevice);
    const auto a = make(here), b = make(there);
    for (int t = 1; t <= 6; ++t) {
      give_gradients(here, t);
      give_gradients(there, t);
      if (t == 2) {
        Parameter(here[1]).clear_gradient();
        Parameter(there[1]).clear_gradient();
      }
      a->step(0.05 / t, 0.5);
      // All of them, or one alone.
      if (t == 3) b->step(0.05 / t, held(0.5));
      else if (t == 5) b->step(0.05 / t, 0.5, held(0));
      else if (t == 6) b->step(0.05 / t, 0.5);
      else b->step(held(0.05 / t), held(0.5), t % 2 == 0 ? held(0) : 0);
      const std::vector<Tensor> before = copies(there);
      const auto state = copies(b->state());
      b->step(held(0.05), 1, held(3));
      b->step(0.05, 1, 3);
      b->step(0.05, 1, held(kNaN));
      b->step(0.05, 1, kNaN);
      BOOST_TEST(same(there, before));
      BOOST_TEST(same(b->state(), state));
      if (t == 4) {
        a->step(0.01);
        b->step(0.01);
      }
    }
    check_alike(there, here);
    const auto state = a->state();
    BOOST_TEST(b->state().size() == state.size());
    for (const auto& [name, tensor] : b->state()) {
      BOOST_TEST(max_difference(tensor, state.at(name)) <= tolerance_of(tensor.dtype()), name);
    }
    // What the host knows is checked beside what it does not.
    const std::vector<Tensor> before = copies(there);
    BOOST_CHECK_EXCEPTION(b->step(-1, held(1)), ValueError, says({"the learning rate is -1"}));
    BOOST_CHECK_EXCEPTION(b->step(held(1), kInfinity), ValueError, says({"the gradient scale is inf"}));
    if (!kDevice.is_cpu()) {
      BOOST_CHECK_EXCEPTION(b->step(Tensor::scalar(0.1)), DeviceError, says({"learning_rate", "cpu", "cuda:0"}));
    }
    BOOST_TEST(same(there, before));
  }
}

BOOST_AUTO_TEST_SUITE_END()
