// MPNet's relative bias of scores. The model itself is compared with transformers' in tests/reference/.

#include "checks.h"
#include "model_checks.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/models/bert.h"
#include "tapecache/ops/attention.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(mpnet)

BOOST_AUTO_TEST_CASE(a_bias_of_scores_has_the_right_gradient) {
  const Tensor qkv = random_values({2, 3, 12}, 1), bias = random_values({2, 3, 3}, 2);
  for (const Tensor& valid : {Tensor(), Tensor::from(std::vector<bool>{true, true, true, false, true, true}, {2, 3})}) {
    const GradcheckResult result =
        gradcheck([&](std::span<const Variable> x) { return ops::attention(x[0], 2, {.valid = valid, .bias = x[1]}); },
                  {qkv, bias});
    BOOST_TEST(result.passed, result.message);
    const Variable plain = ops::attention(qkv, 2, {.valid = valid});
    const Variable none = ops::attention(qkv, 2, {.valid = valid, .bias = Tensor::zeros({2, 3, 3}, DType::kFloat64)});
    BOOST_TEST(max_difference(plain.value(), none.value()) <= 1e-14);
  }
}

BOOST_AUTO_TEST_CASE(biases_that_do_not_fit_are_refused) {
  const Tensor qkv = random_values({2, 3, 12}, 1);
  BOOST_CHECK_EXCEPTION(ops::attention(qkv, 2, {.bias = Tensor::zeros({3, 3, 3}, DType::kFloat64)}), ShapeError,
                        says({"attention: bias has shape [3, 3, 3]", "[2, 3, 3]"}));
  BOOST_CHECK_EXCEPTION(ops::attention(qkv, 2, {.causal = true, .bias = Tensor::zeros({2, 3, 3}, DType::kFloat64)}),
                        ValueError, says({"causal beside a bias"}));
  MpnetConfig config;
  config.position_offset = -1;
  BOOST_CHECK_EXCEPTION(Mpnet(config, 1), ValueError, says({"mpnet: position_offset is -1"}));
}

BOOST_AUTO_TEST_SUITE_END()
