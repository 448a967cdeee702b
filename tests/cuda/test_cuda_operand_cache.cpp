#include <boost/test/unit_test.hpp>

#include "checks.h"
#include "cuda_device.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/operand_cache.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/ops/linear.h"

// Kept copies of parameters and recorded steps: a replay rounds the parameters as they are, and what is kept outside it
// is not taken for them.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

Tensor single_there(const Shape& shape, std::uint64_t seed) {
  return random_values(shape, seed, DType::kFloat32).to(kCuda);
}

struct Fixture {
  Tensor x = single_there({5, 24}, 1), y;
  Parameter weight{"weight", single_there({16, 24}, 2)};

  Tensor product() const { return ops::linear(x, weight).value(); }
  Tensor afresh() const {
    OperandCache empty;
    const auto scope = empty.use();
    return product();
  }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(cuda, Fixture)

BOOST_AUTO_TEST_CASE(a_replay_rounds_parameters_as_they_are, *on_device) {
  const Autocast autocast(DType::kBFloat16);  // around all of it, so that copies made outside could be found within
  CapturedStep step(kCuda, [&] { y = product(); });
  product();
  for (std::uint32_t t = 0; t < 5; ++t) {
    step.replay(t);
    BOOST_TEST(same_bits(y, afresh()), "replay " << t);
    weight.mutable_value().copy_from(single_there({16, 24}, 10 + t));
  }
}

BOOST_AUTO_TEST_CASE(a_parameter_that_a_replay_changes_is_rounded_anew, *on_device) {
  const Autocast autocast(DType::kBFloat16);
  Tensor next = single_there({16, 24}, 3);
  CapturedStep step(kCuda, [&] { weight.mutable_value().copy_from(next); });
  for (std::uint32_t t = 0; t < 5; ++t) {
    next.copy_from(single_there({16, 24}, 20 + t));
    step.replay(t);
    BOOST_TEST(same_bits(product(), afresh()), "replay " << t);
  }
}

BOOST_AUTO_TEST_SUITE_END()
