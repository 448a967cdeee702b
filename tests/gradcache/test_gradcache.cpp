#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "gradcache_checks.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

// The cached step against the direct step, on the device under test.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

void check_every_cut(const ClipSetup& setup, double tolerance, std::initializer_list<std::int64_t> kept_chunks) {
  for (std::int64_t chunk = 1; chunk <= setup.n + 1; ++chunk) {
    for (const std::int64_t kept : kept_chunks) {
      BOOST_TEST_CONTEXT("chunks of " << chunk << ", " << kept << " kept") {
        StepOptions options = device_options();
        options.cut = MemoryPlan{{chunk, std::max<std::int64_t>(1, chunk - 1)}, kept};
        begin_random_step(5, 3);
        check_equal(compare(setup.towers(), setup.loss(), options, setup.parameters()), tolerance);
      }
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_step)

BOOST_AUTO_TEST_CASE(every_chunk_size_equals_direct, *on_device) {
  for (const auto& [dtype, tolerance] : kStepTypes) {
    BOOST_TEST_CONTEXT(name(dtype)) { check_every_cut(ClipSetup(9, dtype, 0.3), tolerance, {0, 1, 20}); }
  }
  check_every_cut(ClipSetup(13), 1e-12, {0});
}

BOOST_AUTO_TEST_CASE(f32_equals_direct_to_rounding, *on_device) {
  const ClipSetup setup(64, DType::kFloat32, 0.1);
  for (const std::int64_t chunk : {7, 16, 64}) {
    check_equal(compare(setup.towers(), setup.loss(), device_options({chunk}), setup.parameters()), 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(accumulation_is_not_equal, *on_device) {
  const ClipSetup setup(16, DType::kFloat64, 0.2);
  const auto towers = setup.towers();
  const auto accumulated = [&](std::int64_t chunk) {
    return compare_steps(
        [&] { return direct_step(towers, setup.loss(), device_options().direct()); },
        [&] { return accumulated_step(towers, setup.loss(), {.chunk_sizes = {chunk}, .device = kDevice}); },
        setup.parameters());
  };
  BOOST_TEST(accumulated(4).relative_norm > 1e-2);
  check_equal(accumulated(16), 1e-12);  // one chunk of everything is the direct step
}

BOOST_AUTO_TEST_CASE(dropout_draws_do_not_depend_on_the_cut, *on_device) {
  const ClipSetup setup(9, DType::kFloat64, 0.5);
  const StepOptions options = device_options();
  begin_random_step(1, 1);
  const StepResult whole = direct_step(setup.towers(), setup.loss(), options.direct());
  const RandomState after = random_state();
  for (const std::int64_t chunk : {1, 2, 4, 9}) {
    begin_random_step(1, 1);
    const StepResult cached = cached_step(setup.towers(), setup.loss(), device_options({chunk}));
    BOOST_TEST((random_state() == after));
    for (std::size_t i = 0; i < 2; ++i) {
      const std::vector<double> a = doubles(whole.representations[i]), b = doubles(cached.representations[i]);
      for (std::size_t k = 0; k < a.size(); ++k) BOOST_TEST(std::abs(a[k] - b[k]) <= 1e-14);
    }
  }
  begin_random_step(1, 2);
  const StepResult other_step = direct_step(setup.towers(), setup.loss(), options.direct());
  BOOST_TEST(other_step.loss.item() != whole.loss.item());
}

BOOST_AUTO_TEST_CASE(chunk_size_per_tower, *on_device) {
  const ClipSetup setup(10, DType::kFloat64, 0.2);
  check_equal(compare(setup.towers(), setup.loss(), device_options({3, 4}), setup.parameters()), 1e-12);
}

BOOST_AUTO_TEST_CASE(tied_towers_receive_both_contributions, *on_device) {
  const Encoder shared(40, DType::kFloat64, 0.2);
  const Parameter log_scale("log_scale", Tensor::full({}, 1.0, DType::kFloat64, kDevice));
  const std::vector<Tower> towers{{"a", device_values({8, 5}, 1), shared}, {"b", device_values({8, 5}, 2), shared}};
  const Loss loss = [&](std::span<const Variable> r) {
    return clip_loss(r[0], r[1], {.scale = Scale::from_log(log_scale)});
  };
  for (const std::int64_t chunk : {1, 3, 8}) {
    check_equal(compare(towers, loss, device_options({chunk}), joined({shared.parameters(), {log_scale}})), 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(frozen_tower_is_forwarded_once, *on_device) {
  for (const auto& [dtype, tolerance] : kStepTypes) {
    const ClipSetup setup(8, dtype, 0.2);
    for (Parameter p : setup.image.parameters()) p.set_requires_gradient(false);
    std::int64_t rows_seen = 0;
    const auto counting = [&](const Tensor& x) {
      rows_seen += x.size(0);
      return setup.image(x);
    };
    const std::vector<Tower> towers{{"image", setup.images, counting}, {"text", setup.texts, setup.text}};
    cached_step(towers, setup.loss(), device_options({3}));
    BOOST_TEST(rows_seen == 8);
    for (const Parameter& p : setup.image.parameters()) BOOST_TEST(!p.gradient().defined());
    gradients_of(setup.parameters());
    check_equal(compare(towers, setup.loss(), device_options({3}), setup.text.parameters()), tolerance);
  }
}

BOOST_AUTO_TEST_CASE(all_towers_frozen_leaves_the_loss_parameters, *on_device) {
  ClipSetup setup(6);
  for (Parameter p : joined({setup.image.parameters(), setup.text.parameters()})) p.set_requires_gradient(false);
  check_equal(compare(setup.towers(), setup.loss(), device_options({4}), std::vector{setup.log_scale}), 1e-12);
  cached_step(setup.towers(), setup.loss(), device_options({4}));
  BOOST_TEST(setup.log_scale.gradient().defined());
}

BOOST_AUTO_TEST_CASE(three_towers, *on_device) {
  const Encoder a(50, DType::kFloat64, 0.1), b(60, DType::kFloat64, 0.1), c(70, DType::kFloat64, 0.1);
  const std::vector<Tower> towers{
      {"a", device_values({7, 5}, 1), a}, {"b", device_values({7, 5}, 2), b}, {"c", device_values({7, 5}, 3), c}};
  const Loss loss = [](std::span<const Variable> r) {
    return ops::add(info_nce(r[0], r[1]), ops::add(info_nce(r[1], r[2]), info_nce(r[2], r[0], {.scale = 3.0})));
  };
  for (const std::int64_t chunk : {1, 2, 7}) {
    check_equal(
        compare(towers, loss, device_options({chunk}), joined({a.parameters(), b.parameters(), c.parameters()})),
        1e-12);
  }
}

BOOST_AUTO_TEST_CASE(hard_negatives, *on_device) {
  for (const auto& [dtype, tolerance] : kStepTypes) {
    const Encoder query(80, dtype, 0.1), passage(90, dtype, 0.1);
    const Parameter scale("scale", Tensor::full({}, 2.0, dtype, kDevice));
    const Loss loss = [&](std::span<const Variable> r) { return info_nce(r[0], r[1], {.scale = scale}); };
    for (const bool tied : {false, true}) {
      const Encoder& second = tied ? query : passage;
      const std::vector<Tower> towers{{"query", device_values({5, 5}, 1, dtype), query},
                                      {"passage", device_values({15, 5}, 2, dtype), second}};
      const std::vector<Parameter> parameters =
          tied ? joined({query.parameters(), {scale}}) : joined({query.parameters(), passage.parameters(), {scale}});
      for (const std::vector<std::int64_t>& chunks :
           std::vector<std::vector<std::int64_t>>{{1}, {4}, {15}, {16}, {2, 6}, {2, 4}}) {
        check_equal(compare(towers, loss, device_options(chunks), parameters), tolerance);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(any_splittable_input, *on_device) {
  struct Pairs {
    Tensor left, right;
    std::int64_t size() const { return left.size(0); }
    Pairs slice(std::int64_t begin, std::int64_t end) const {
      return {left.slice(begin, end), right.slice(begin, end)};
    }
  };
  const Encoder encoder(11, DType::kFloat64, 0.1);
  const std::vector<Tower> towers{{"pairs", Pairs{device_values({6, 5}, 1), device_values({6, 5}, 2)},
                                   [encoder](const Pairs& p) { return ops::add(encoder(p.left), encoder(p.right)); }},
                                  {"single", device_values({6, 5}, 3), encoder}};
  const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
  check_equal(compare(towers, loss, device_options({4}), encoder.parameters()), 1e-12);
}

BOOST_AUTO_TEST_CASE(representations_of_any_rank, *on_device) {
  const Parameter w("w", device_values({3, 4}, 1));
  const auto encode = [w](const Tensor& x) { return ops::tanh(ops::linear(x, w)); };
  const std::vector<Tower> towers{{"tokens", device_values({6, 2, 4}, 2), encode}};
  const Loss loss = [](std::span<const Variable> r) {
    const Variable pooled = ops::max(r[0], 1);
    return info_nce(pooled, ops::scale(ops::mean(r[0], 1), 2.0));
  };
  check_equal(compare(towers, loss, device_options({4}), std::vector{w}), 1e-12);
}

BOOST_AUTO_TEST_CASE(auxiliary_losses_and_a_loss_scale, *on_device) {
  for (const auto& [dtype, tolerance] : kStepTypes) {
    const Encoder encoder(1, dtype, 0.2);
    const auto encode = [&](const Tensor& x) {
      const Variable y = encoder(x);
      return Encoded{{{"pooled", y}, {"squashed", ops::tanh(y)}}, {{"size", ops::mean(ops::exp(y), 1), 0.7}}};
    };
    const std::vector<Tower> towers{{"x", device_values({7, 5}, 2, dtype), encode}};
    const Loss loss = [](const Representations& r) { return info_nce(r.at("x.pooled"), r.at("x.squashed")); };
    StepOptions options = device_options({3});
    options.scale = 0.25;
    check_equal(compare(towers, loss, options, encoder.parameters()), tolerance);
    const StepResult direct = direct_step(towers, loss, options.direct()), cached = cached_step(towers, loss, options);
    BOOST_REQUIRE((direct.auxiliary.size() == 1 && cached.auxiliary.size() == 1));
    BOOST_TEST(cached.auxiliary[0].mean > 0);
  }
}

BOOST_AUTO_TEST_CASE(reproducible_steps_are_equal_to_the_last_bit, *on_device) {
  for (const DType precision : {DType::kFloat32, DType::kBFloat16}) {
    const ClipSetup setup(27, DType::kFloat32, 0.2);
    StepOptions options = device_options();
    options.reproducible_block = 8;
    options.autocast = precision;
    begin_random_step(7, 3);
    const StepResult direct = direct_step(setup.towers(), setup.loss(), options.direct());
    const std::vector<Tensor> expected = gradients_of(setup.parameters());
    for (const std::int64_t chunk : {8, 16, 32}) {
      for (const std::int64_t kept : {0, 2}) {
        BOOST_TEST_CONTEXT(name(precision) << ", chunks of " << chunk << ", " << kept << " kept") {
          options.cut = MemoryPlan{{chunk, chunk}, kept};
          begin_random_step(7, 3);
          BOOST_TEST(cached_step(setup.towers(), setup.loss(), options).loss.item() == direct.loss.item());
          const std::vector<Tensor> found = gradients_of(setup.parameters());
          for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(steps_in_bf16_are_close_to_those_of_the_cpu_and_to_direct_ones, *on_device) {
  const ClipSetup setup(10, DType::kFloat32, 0.2), host(10, DType::kFloat32, 0.2, Device::cpu());
  StepOptions options{{4}};
  options.autocast = DType::kBFloat16;
  begin_random_step(1, 1);
  const StepResult expected = cached_step(host.towers(), host.loss(), options);
  options.device = kDevice;
  begin_random_step(1, 1);
  const StepResult found = cached_step(setup.towers(), setup.loss(), options);
  check_alike(found, setup.parameters(), expected, host.parameters(), 2e-2);
  check_equal(compare(setup.towers(), setup.loss(), options, setup.parameters()), 2e-2);
}

BOOST_AUTO_TEST_CASE(chunks_by_tokens_equal_the_padded_batch, *on_device) {
  std::vector<std::vector<std::int32_t>> words;
  for (std::int64_t i = 0; i < 9; ++i) {
    words.emplace_back(static_cast<std::size_t>(1 + i * 5 % 8), static_cast<std::int32_t>(i));
  }
  const models::TokenBatch batch = models::TokenBatch::pad(words).to(kDevice);
  for (const auto& [dtype, tolerance] : kStepTypes) {
    const models::Builder builder(5, dtype);
    const models::TextTransformer tower(
        builder, {.vocabulary = 10,
                  .max_tokens = 8,
                  .causal = true,
                  .pooling = models::TextConfig::Pooling::kLastToken,
                  .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 16, .dropout = 0.2}});
    builder.to(kDevice);
    const Encoder other(1, dtype, 0.2, 5, 7, 8);
    const std::vector<Tower> towers{
        {"text", batch, [&](const models::TokenBatch& tokens) { return ops::l2_normalize(tower(tokens)); }},
        {"other", device_values({9, 5}, 6, dtype), other}};
    const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
    for (const std::int64_t tokens : {1, 13, 1000}) {
      StepOptions options = device_options();
      options.cut = ChunkTokens{tokens, {4}};
      options.check_recompute = true;
      begin_random_step(2, 5);
      BOOST_TEST(compare(towers, loss, options).relative_norm <= tolerance);
    }
  }
}

BOOST_AUTO_TEST_CASE(small_batches_from_a_loader_make_the_big_one, *on_device) {
  const ClipSetup setup(9, DType::kFloat64, 0.3);
  const auto batch_of = [](const std::string& name, const Encoder& encoder, const Tensor& samples,
                           const std::vector<std::int64_t>& cuts) {
    CachedBatch batch{name, {}};
    std::int64_t begin = 0;
    for (const std::int64_t end : cuts) {
      CachedOptions options;
      if (!batch.chunks.empty()) options.after = &batch.chunks.back();
      batch.chunks.push_back(cached(encoder, samples.slice(begin, end), options));
      begin = end;
    }
    return batch;
  };
  const auto by_parts = [&] {
    const std::vector<CachedBatch> towers{batch_of("image", setup.image, setup.images, {2, 3, 9}),
                                          batch_of("text", setup.text, setup.texts, {4, 9})};
    return cached_backward(towers, setup.loss(), {.device = kDevice});
  };
  const auto direct = [&] { return direct_step(setup.towers(), setup.loss(), device_options().direct()); };
  begin_random_step(3, 4);
  check_equal(compare_steps(direct, by_parts, setup.parameters()), 1e-12);
  direct();
  const RandomState after = random_state();
  begin_random_step(3, 4);
  const StepResult result = by_parts();
  BOOST_TEST((random_state() == after));
  BOOST_TEST(result.chunks == 5);
  BOOST_TEST(result.parameters.size() == 7u);
}

BOOST_AUTO_TEST_CASE(gradients_add_to_what_is_there, *on_device) {
  const ClipSetup setup(6);
  cached_step(setup.towers(), setup.loss(), device_options({4}));
  std::vector<std::vector<double>> once;
  for (const Parameter& p : setup.parameters()) once.push_back(doubles(p.gradient()));
  cached_step(setup.towers(), setup.loss(), device_options({2}));
  std::size_t i = 0;
  for (const Parameter& p : setup.parameters()) {
    const std::vector<double> twice = doubles(p.gradient());
    for (std::size_t k = 0; k < twice.size(); ++k) {
      BOOST_TEST(std::abs(twice[k] - 2 * once[i][k]) <= 1e-12 * std::max(1.0, std::abs(twice[k])));
    }
    ++i;
  }
}

BOOST_AUTO_TEST_CASE(hooks_run_once_after_the_last_chunk, *on_device) {
  ClipSetup setup(6);
  int calls = 0;
  double norm_seen = 0;
  setup.image.w1.add_hook([&](Parameter& p) {
    ++calls;
    norm_seen = std::abs(doubles(p.gradient())[0]);
  });
  cached_step(setup.towers(), setup.loss(), device_options({2}));
  BOOST_TEST(calls == 1);
  BOOST_TEST(norm_seen == std::abs(doubles(setup.image.w1.gradient())[0]));
}

BOOST_AUTO_TEST_CASE(what_is_not_finite_is_named, *on_device) {
  const ClipSetup setup(6, DType::kFloat32);
  const Loss bad_loss = [](std::span<const Variable> r) {
    return ops::scale(info_nce(r[0], r[1]), std::numeric_limits<double>::infinity());
  };
  BOOST_TEST((cached_step(setup.towers(), bad_loss, device_options({2})).status == StepStatus::kNonFiniteLoss));
  Tensor factors = Tensor::full({6, 1}, 1.0);
  factors.slice(3, 4).fill(std::numeric_limits<double>::infinity());
  const Loss bad_slope = [factors = factors.to(kDevice)](std::span<const Variable> r) {
    // 0 · Inf is in the gradient of sample 3 alone.
    return ops::add(info_nce(r[0], r[1]),
                    ops::sum(ops::sum(ops::scale(ops::tanh(ops::multiply(r[1], factors)), 0.1), 1), 0));
  };
  const StepResult result = cached_step(setup.towers(), bad_slope, device_options({2}));
  BOOST_TEST((result.status == StepStatus::kNonFiniteCache));
  BOOST_TEST(result.message.find("'text' is not finite, first at sample 3, in chunk 1 of 3") != std::string::npos,
             result.message);
  for (const Parameter& p : setup.parameters()) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(a_second_forward_that_differs_is_noticed, *on_device) {
  const ClipSetup setup(6, DType::kFloat64, 0.2);
  int calls = 0;
  const auto drifting = [&](const Tensor& x) { return ops::scale(setup.image(x), 1.0 + 1e-9 * ++calls); };
  const std::vector<Tower> towers{{"image", setup.images, drifting}, {"text", setup.texts, setup.text}};
  StepOptions options = device_options({2});
  options.check_recompute = true;
  BOOST_CHECK_EXCEPTION(cached_step(towers, setup.loss(), options), ValueError,
                        says({"'image'", "differs from the first"}));
  GradCache grad_cache(setup.loss(), device_options({2}), {.every = 1, .samples = 4});
  grad_cache.step(setup.towers());
  BOOST_REQUIRE(grad_cache.checked().has_value());
  check_equal(*grad_cache.checked(), 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
