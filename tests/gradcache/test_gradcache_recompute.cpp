#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gradcache_checks.h"
#include "small_model.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/models/layers.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Every kind of draw an encoder makes: augmentation of its input, dropout, drop path.
struct DrawingEncoder {
  Encoder inner;

  Variable operator()(const Tensor& x) const {
    const Tensor noise = ops::sample_uniform(x.size(0), x.size(1));
    const Variable augmented = ops::add(x, ops::scale(Variable(noise.to(x.dtype())), 0.5));
    const Variable hidden = ops::linear(augmented, inner.w1, inner.b1);
    const Variable deep = ops::add(hidden, ops::drop_path(ops::tanh(ops::dropout(hidden, 0.3)), 0.4));
    return ops::l2_normalize(ops::linear(deep, inner.w2));
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_recompute)

BOOST_AUTO_TEST_CASE(every_draw_is_the_same_for_every_cut_and_thread_count) {
  const DrawingEncoder a{Encoder(1, DType::kFloat64, 0)}, b{Encoder(2, DType::kFloat64, 0)};
  const std::vector<Tower> towers{{"a", random_values({13, 5}, 3), a}, {"b", random_values({13, 5}, 4), b}};
  StepOptions options;
  options.check_recompute = true;
  const int threads = thread_count();
  for (const int count : {1, 2, 4}) {
    set_thread_count(count);
    for (std::int64_t chunk = 1; chunk <= 14; ++chunk) {
      begin_random_step(9, 1);
      options.cut = {chunk};
      check_equal(compare(towers, pairwise, options), 1e-12);
    }
  }
  set_thread_count(threads);
  // Other steps draw otherwise, or the comparison would prove nothing.
  begin_random_step(9, 1);
  const double first = direct_step(towers, pairwise).loss.item();
  begin_random_step(9, 2);
  BOOST_TEST(direct_step(towers, pairwise).loss.item() != first);
}

BOOST_AUTO_TEST_CASE(what_the_loss_does_to_the_random_state_does_not_reach_the_second_forward) {
  const ClipSetup setup(9, DType::kFloat64, 0.4);
  const Loss drawing = [&](std::span<const Variable> r) {
    const Variable loss = clip_loss(ops::dropout(r[0], 0.2), r[1], {.scale = Scale::from_log(setup.log_scale)});
    begin_random_step(77, 7);
    return loss;
  };
  for (const std::int64_t chunk : {2, 9}) {
    StepOptions options{{chunk}};
    options.check_recompute = true;
    begin_random_step(1, 1);
    check_equal(compare(setup.towers(), drawing, options), 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(every_chunk_gives_its_own_gradient) {
  // A published mini-batched loss kept only what its last chunk gave.
  const Parameter table("table", random_values({12, 4}, 1));
  std::vector<std::int64_t> own(12);
  for (std::size_t i = 0; i < own.size(); ++i) own[i] = static_cast<std::int64_t>(i);
  const std::vector<Tower> towers{
      {"rows", Tensor::from(own, {12}), [&](const Tensor& ids) { return ops::embedding(table, ids); }}};
  const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], ops::tanh(r[0]), {.scale = 2.0}); };
  for (const std::int64_t chunk : {1, 5}) {
    Parameter(table).clear_gradient();
    cached_step(towers, loss, {{chunk}});
    const std::vector<double> gradient = doubles(table.gradient());
    for (std::size_t row = 0; row < 12; ++row) {
      double size = 0;
      for (std::size_t k = 0; k < 4; ++k) size += std::abs(gradient[4 * row + k]);
      BOOST_TEST(size > 1e-3, "row " << row << " of chunks of " << chunk);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_backward_outside_of_the_guard_it_was_made_in) {
  const Encoder encoder(1, DType::kFloat32, 0.3);
  const Tensor x = random_values({6, 5}, 2, DType::kFloat32), c = random_values({6, 4}, 3, DType::kFloat32);
  const auto gradient = [&](bool inside) {
    for (Parameter p : encoder.parameters()) p.clear_gradient();
    begin_random_step(5, 5);
    std::optional<Autocast> autocast(std::in_place, DType::kBFloat16);
    const CachedForward forward = cached(encoder, x, {.check_recompute = true});
    if (!inside) {
      autocast.reset();
      begin_random_step(6, 6);
    }
    forward.backward(std::span(&c, 1));
    return encoder.w1.gradient().clone();
  };
  BOOST_TEST(same_bits(gradient(true), gradient(false)));
}

BOOST_AUTO_TEST_CASE(drop_path_within_transformers) {
  SmallModel model(24);
  models::ClipConfig config = SmallModel::config(0.2);
  config.vision.encoder.drop_path = config.text.encoder.drop_path = 0.3;
  model.clip = models::Clip(config, 3);
  for (const std::int64_t chunk : {1, 5, 8}) {
    begin_random_step(2, 2);
    check_close(compare(model.towers(), model.loss(), {{chunk}}), 1e-5);
  }
  check_close(compare(model.towers(), model.loss(), {.cut = ChunkTokens{40, {8}}}), 1e-5);
  StepOptions exact{{8}};
  exact.reproducible_block = 8;
  BOOST_TEST(compare(model.towers(), model.loss(), exact).relative_norm == 0.0);
}

BOOST_AUTO_TEST_CASE(batch_statistics_are_refused_by_name) {
  models::Builder builder(1, DType::kFloat64);
  const models::Linear linear(builder.child("linear"), 5, 4, models::Init::normal(0.5));
  models::BatchNorm norm(builder.child("neck"), 4);
  const auto encode = [&](const Tensor& x) { return norm(linear(x)); };
  const std::vector<Tower> towers{{"a", random_values({8, 5}, 3), encode}, {"b", random_values({8, 5}, 4), encode}};
  const Tensor mean = norm.running_mean.clone();
  builder.set_training(true);
  BOOST_CHECK_EXCEPTION(cached_step(towers, pairwise, {{4}}), ValueError, says({"'neck'", "freeze"}));
  BOOST_TEST(same_bits(norm.running_mean, mean));
  for (const Parameter& p : builder.parameters()) BOOST_TEST(!p.gradient().defined());

  // One chunk is the whole batch: its statistics are right, and the averages move once, as in the direct step.
  cached_step(towers, pairwise, {{8}});
  const Tensor after_cached = norm.running_mean.clone();
  norm.running_mean.copy_from(mean);
  direct_step(towers, pairwise);
  BOOST_TEST(same_bits(norm.running_mean, after_cached));
  BOOST_TEST(!same_bits(norm.running_mean, mean));

  norm.freeze_statistics();
  for (Parameter p : builder.parameters()) p.clear_gradient();
  check_equal(compare(towers, pairwise, {{3}}), 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
