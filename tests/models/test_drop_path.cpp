#include <cstdint>
#include <limits>
#include <vector>

#include "model_checks.h"
#include "philox_reference.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/elementwise.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

constexpr TransformerConfig kBlock{.width = 8, .layers = 1, .heads = 2, .mlp_width = 12};

/// Factors [samples, 1, 1] of a call, by the paper: 0 or 1 / (1 - p).
Variable factors(std::int64_t samples, std::uint32_t call, double p) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < samples; ++i) {
    const PhiloxReference philox{{0, static_cast<std::uint32_t>(i), call, 3}, {7, 0}};
    values.push_back(philox.word(0) / 256 / 16777216.0 < p ? 0 : 1 / (1 - p));
  }
  return Tensor::from(values, {samples, 1, 1});
}

}  // namespace

BOOST_AUTO_TEST_SUITE(drop_path_in_transformers)

BOOST_AUTO_TEST_CASE(probability_0_changes_nothing) {
  begin_random_step(6, 7);
  const Variable x = random_values({3, 2}, 1);
  BOOST_TEST(DropPath(Builder(1), 0)(x).value().shares_storage(x.value()));
  BOOST_TEST(random_state().key.call == 0u);
  const Clip clip(small_clip(0.3), 51);
  values_of([&] { return clip.encode_image(small_images(3, DType::kFloat32)); });
  BOOST_TEST(random_state().key.call == 4u);  // two layers of two dropouts, which draw as they did
}

BOOST_AUTO_TEST_CASE(both_branches_are_dropped_by_sample) {
  constexpr double kProbability = 0.5;
  constexpr std::int64_t kSamples = 12;
  TransformerConfig config = kBlock;
  config.drop_path = kProbability;
  const Builder builder(7, DType::kFloat64), parts(7, DType::kFloat64);
  const TransformerBlock block(builder, config);
  const LayerNorm norm1(parts.child("layer_norm1"), 8), norm2(parts.child("layer_norm2"), 8);
  const MultiHeadAttention attention(parts.child("self_attn"), 8, 2, Init::normal(1), Init::normal(1));
  const Linear fc1(parts.child("mlp").child("fc1"), 8, 12, Init::normal(1));
  const Linear fc2(parts.child("mlp").child("fc2"), 12, 8, Init::normal(1));
  shake(builder.parameters(), 30);
  for (const Parameter& p : builder.parameters()) Parameter(named(parts.parameters(), p.name())).assign(p.value());

  const Tensor x = random_values({kSamples, 3, 8}, 1);
  const auto expected = [&](const Variable& factor1, const Variable& factor2) {
    return values_of([&] {
      const Variable attended = ops::add(x, ops::multiply(attention(norm1(x), {}), factor1));
      const Variable mlp = fc2(activate(config.activation, fc1(norm2(attended))));
      return ops::add(attended, ops::multiply(mlp, factor2));
    });
  };
  // Calls 0 and 2 are those of dropout, which takes its number at probability 0 too.
  const Variable first = factors(kSamples, 1, kProbability), second = factors(kSamples, 3, kProbability);
  begin_random_step(7, 3);
  const Tensor y = values_of([&] { return block(x); });
  BOOST_TEST(random_state().key.call == 4u);
  BOOST_TEST(max_difference(y, expected(first, second)) <= 1e-12);
  bool some_kept = false, some_dropped = false, some_whole = false;
  for (std::int64_t i = 0; i < kSamples; ++i) {
    const double a = doubles(first.value())[static_cast<std::size_t>(i)];
    const double b = doubles(second.value())[static_cast<std::size_t>(i)];
    some_kept = some_kept || (a > 0 && b > 0);
    some_whole = some_whole || (a == 0 && b == 0);
    some_dropped = some_dropped || (a > 0) != (b > 0);
    if (a == 0 && b == 0) BOOST_TEST(same_bits(y.slice(i, i + 1).clone(), x.slice(i, i + 1).clone()));
  }
  BOOST_TEST((some_kept && some_dropped && some_whole));

  // A part of the batch is dropped as in the whole.
  begin_random_step(7, 3);
  random_state().first_sample = 5;
  BOOST_TEST(max_difference(values_of([&] { return block(x.slice(5, 9)); }), y.slice(5, 9).clone()) <= 1e-14);

  builder.set_training(false);
  const Variable one = Tensor::full({1}, 1, DType::kFloat64);
  begin_random_step(7, 3);
  BOOST_TEST(max_difference(values_of([&] { return block(x); }), expected(one, one)) <= 1e-12);
  BOOST_TEST(random_state().key.call == 0u);
}

BOOST_AUTO_TEST_CASE(activation_checkpointing_drops_the_same_samples) {
  const auto run = [](bool checkpoint, const Builder& builder) {
    TransformerConfig config = kBlock;
    config.layers = 2;
    config.drop_path = 0.4;
    config.checkpoint = checkpoint;
    const TransformerEncoder encoder(builder, config);
    begin_random_step(7, 3);
    run_backward([&] { return encoder(random_values({6, 3, 8}, 1)); });
  };
  const Builder plain(7, DType::kFloat64), again(7, DType::kFloat64);
  run(false, plain);
  run(true, again);
  for (std::size_t i = 0; i < plain.parameters().size(); ++i) {
    BOOST_TEST(same_bits(plain.parameters()[i].gradient(), again.parameters()[i].gradient()));
  }
}

BOOST_AUTO_TEST_CASE(probabilities_out_of_range) {
  for (const double p : {1.0, -0.1, std::numeric_limits<double>::quiet_NaN()}) {
    TransformerConfig config = kBlock;
    config.drop_path = p;
    BOOST_CHECK_EXCEPTION(TransformerBlock(Builder(1), config), ValueError, says({"drop_path", "0 <= p < 1"}));
  }
}

BOOST_AUTO_TEST_SUITE_END()
