#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "model_checks.h"
#include "tapecache/core/philox.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/losses.h"
#include "tapecache/models/clip.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

/// <c, f> for the given cotangent.
double projected(const Forward& forward, const std::vector<double>& cotangent) {
  const std::vector<double> y = doubles(values_of(forward));
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * cotangent[i];
  return sum;
}

/// The derivative along one element by central differences, in f64.
double central_difference(const Forward& forward, const std::vector<double>& cotangent, Parameter parameter,
                          std::int64_t element, double step = 1e-5) {
  const double value = parameter.value().data<double>()[element];
  parameter.mutable_value().mutable_data<double>()[element] = value + step;
  const double above = projected(forward, cotangent);
  parameter.mutable_value().mutable_data<double>()[element] = value - step;
  const double below = projected(forward, cotangent);
  parameter.mutable_value().mutable_data<double>()[element] = value;
  return (above - below) / (2 * step);
}

/// The element of the largest gradient, and a few others.
std::vector<std::int64_t> elements_to_check(const std::vector<double>& gradient, std::uint64_t seed) {
  const auto larger = [](double a, double b) { return std::abs(a) < std::abs(b); };
  std::vector<std::int64_t> elements{std::max_element(gradient.begin(), gradient.end(), larger) - gradient.begin()};
  const auto word = RandomKey{seed}.draw(1, 2);
  for (std::size_t i = 0; i < 3; ++i) elements.push_back(static_cast<std::int64_t>(word[i] % gradient.size()));
  return elements;
}

/// Every parameter has a gradient, and it is the one that central differences give.
void check_gradients(const Forward& forward, std::span<const Parameter> parameters) {
  BOOST_REQUIRE(!parameters.empty());
  clear_gradients(parameters);
  const std::vector<double> cotangent = run_backward(forward);
  std::uint64_t seed = 0;
  for (const Parameter& p : parameters) {
    BOOST_TEST_CONTEXT(p.name()) {
      BOOST_REQUIRE(p.gradient().defined());
      BOOST_TEST((p.gradient().shape() == p.value().shape()));
      const std::vector<double> gradient = doubles(p.gradient());
      // A shift of all keys moves no softmax, so that this one gradient is 0.
      const bool vanishes = p.name().ends_with("k_proj.bias");
      const double largest = std::abs(gradient[static_cast<std::size_t>(elements_to_check(gradient, 0).front())]);
      BOOST_TEST((vanishes ? largest <= 1e-12 : largest > 1e-6), "largest gradient " << largest);
      for (const std::int64_t element : elements_to_check(gradient, ++seed)) {
        const double found = gradient[static_cast<std::size_t>(element)];
        const double expected = central_difference(forward, cotangent, p, element);
        BOOST_TEST(std::abs(found - expected) <= 1e-8 + 2e-7 * std::abs(expected),
                   "element " << element << ": " << found << ", by differences " << expected);
      }
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_gradients)

BOOST_AUTO_TEST_CASE(gradients_of_a_transformer_block) {
  const TokenBatch padded = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 1, 1}, {1}, {1, 1, 1, 1}});
  for (const Activation activation : {Activation::kQuickGelu, Activation::kGelu, Activation::kGeluTanh,
                                      Activation::kSilu}) {
    for (const bool masked : {false, true}) {
      const Builder builder(3, DType::kFloat64);
      const TransformerBlock block(
          builder, {.width = 8, .layers = 1, .heads = 2, .mlp_width = 12, .activation = activation, .dropout = 0.2});
      shake(builder.parameters(), 100);
      const Parameter x("x", random_values({3, 4, 8}, 8));
      std::vector<Parameter> parameters = builder.parameters();
      parameters.push_back(x);
      const Forward forward = [&] {
        begin_random_step(1, 2);
        return block(x, {.causal = masked, .valid = masked ? padded.valid : Tensor()});
      };
      BOOST_TEST_CONTEXT("activation " << static_cast<int>(activation) << (masked ? ", masked" : "")) {
        BOOST_TEST(parameters.size() == 17u);
        check_gradients(forward, parameters);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_a_vision_transformer) {
  for (const VisionPooling pooling : {VisionPooling::kCls, VisionPooling::kMean}) {
    for (const double dropout : {0.0, 0.25}) {
      VisionConfig config = small_vision();
      config.pooling = pooling;
      config.encoder.dropout = dropout;
      const Builder builder(4, DType::kFloat64);
      const VisionTransformer vision(builder, config);
      shake(builder.parameters(), 200);
      const Tensor images = small_images(2);
      BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << ", dropout " << dropout) {
        check_gradients([&] { return begin_random_step(1, 2), vision(images); }, builder.parameters());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_a_text_transformer) {
  for (const TextPooling pooling : {TextPooling::kLastToken, TextPooling::kMean}) {
    for (const bool causal : {true, false}) {
      TextConfig config = small_text();
      config.pooling = pooling;
      config.causal = causal;
      config.encoder.dropout = causal ? 0.25 : 0.0;
      const Builder builder(5, DType::kFloat64);
      const TextTransformer text(builder, config);
      shake(builder.parameters(), 300);
      const TokenBatch tokens = sentences();
      BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << (causal ? ", causal" : "")) {
        check_gradients([&] { return begin_random_step(1, 2), text(tokens); }, builder.parameters());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_both_towers_with_their_loss) {
  const Clip clip(small_clip(0.1), 6, DType::kFloat64);
  shake(clip.parameters(), 400);
  Parameter(clip.logit_scale()).mutable_value().fill(1.3);
  const Tensor images = small_images(5);
  const TokenBatch tokens = sentences();
  check_gradients(
      [&] {
        begin_random_step(1, 2);
        const Variable image = clip.encode_image(images);
        return gradcache::clip_loss(image, clip.encode_text(tokens), clip.logit_scale());
      },
      clip.parameters());
}

BOOST_AUTO_TEST_SUITE_END()
