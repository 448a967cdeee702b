#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "cuda_gradcache.h"
#include "loss_table.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/maxsim.h"
#include "tapecache/ops/reduce.h"

// The cached step on a CUDA device: against the direct step there, and against the cached step on the CPU.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

constexpr std::pair<DType, double> kTypes[] = {{DType::kFloat64, 1e-12}, {DType::kFloat32, 1e-5}};

/// A loss of the table behind one encoder for each of its representations, with dropout.
struct LossSetup {
  std::vector<Tower> towers;
  Loss loss;
  std::vector<Parameter> parameters;

  LossSetup(const LossRow& row, DType dtype, Device device) {
    std::vector<Variable> own;
    for (std::size_t i = 0; i < row.inputs.size(); ++i) {
      const Tensor input = row.inputs[i].to(dtype).to(device);
      const std::string name = std::to_string(i);
      if (i >= row.representations) {
        own.emplace_back(parameters.emplace_back("own" + name, input));
        continue;
      }
      const Tensor weight = random_values({input.size(-1), input.size(-1)}, 50 + i, dtype).to(device);
      towers.emplace_back("tower" + name, input,
                          [w = parameters.emplace_back("weight" + name, weight)](const Tensor& x) {
                            return ops::tanh(ops::dropout(ops::linear(x, w), 0.2));
                          });
    }
    loss = [of = row.loss, own](const Representations& r) {
      std::vector<Variable> inputs(r.begin(), r.end());
      inputs.insert(inputs.end(), own.begin(), own.end());
      return of(inputs);
    };
  }
};

struct ClipThere : ClipSetup {
  explicit ClipThere(std::int64_t samples, DType dtype = DType::kFloat64, double dropout = 0.2)
      : ClipSetup(samples, dtype, dropout) {
    for (Parameter p : parameters()) p.move_to(kCuda);
    images = images.to(kCuda);
    texts = texts.to(kCuda);
  }
};

/// That both steps, from the same random state, give the same loss, representations and gradients.
void check_alike(const StepResult& found, std::span<const Parameter> far, const StepResult& expected,
                 std::span<const Parameter> near, double tolerance) {
  BOOST_TEST((found.status == StepStatus::kDone && expected.status == StepStatus::kDone));
  BOOST_TEST(std::abs(found.loss.item() - expected.loss.item()) <=
             tolerance * std::max(1.0, std::abs(expected.loss.item())));
  for (std::size_t i = 0; i < expected.representations.size(); ++i) {
    BOOST_TEST((found.representations[i].device() == kCuda));
    BOOST_TEST(max_difference(found.representations[i], expected.representations[i]) <= tolerance);
    BOOST_TEST(std::abs(found.representation_norms[i] - expected.representation_norms[i]) <= 10 * tolerance);
  }
  const std::vector<Tensor> a = gradients_of(far), b = gradients_of(near);
  for (std::size_t i = 0; i < b.size(); ++i) {
    BOOST_REQUIRE((a[i].defined() && b[i].defined()));
    BOOST_TEST((a[i].device() == kCuda));
    BOOST_TEST(max_difference(a[i], b[i]) <= tolerance, near[i].name());
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(every_loss_gives_the_cached_step_what_it_gives_the_direct_one, *on_device) {
  for (const LossRow& row : loss_rows()) {
    for (const auto& [dtype, tolerance] : kTypes) {
      const LossSetup setup(row, dtype, kCuda);
      for (const std::int64_t chunk : {2, 5}) {
        BOOST_TEST_CONTEXT(row.name << ", " << name(dtype) << ", chunks of " << chunk) {
          begin_random_step(5, 3);
          check_equal(compare(setup.towers, setup.loss, there({chunk}), setup.parameters), tolerance);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(every_loss_gives_the_cached_step_what_it_gives_on_the_cpu, *on_device) {
  for (const LossRow& row : loss_rows()) {
    for (const auto& [dtype, tolerance] : kTypes) {
      BOOST_TEST_CONTEXT(row.name << ", " << name(dtype)) {
        const LossSetup far(row, dtype, kCuda), near(row, dtype, Device::cpu());
        begin_random_step(5, 3);
        const StepResult found = cached_step(far.towers, far.loss, there({4}));
        begin_random_step(5, 3);
        const StepResult expected = cached_step(near.towers, near.loss, {{4}});
        check_alike(found, far.parameters, expected, near.parameters, tolerance);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(labels_and_guides_may_be_on_either_device, *on_device) {
  const Tensor labels = Tensor::from(std::vector<std::int64_t>{4, 1, 4, 9, 1, 4}, {6});
  const Tensor a = values_there({6, 4}, 1), b = values_there({6, 4}, 2), guide_a = values_there({6, 3}, 3),
               guide_b = values_there({6, 3}, 4);
  BOOST_TEST(sup_con(a, labels).value().item() == sup_con(a, labels.to(kCuda)).value().item());
  const Tensor host_a = guide_a.to(Device::cpu()), host_b = guide_b.to(Device::cpu());
  const double by_device = gist_loss(a, b, guide_a, guide_b, {.margin = 0.1}).value().item();
  BOOST_TEST(std::abs(by_device - gist_loss(a, b, host_a, host_b, {.margin = 0.1}).value().item()) <= 1e-12);
  const Tensor mask = Tensor::full({6, 2}, 1, DType::kBool), tokens = values_there({6, 2, 4}, 5);
  BOOST_CHECK_EXCEPTION(ops::maxsim_loss(tokens, mask, tokens, {}, Tensor::full({}, 1, DType::kFloat64, kCuda)),
                        DeviceError, says({"query_mask", "cpu", "cuda:0"}));
}

BOOST_AUTO_TEST_CASE(accumulation_on_a_device_is_not_equal, *on_device) {
  const ClipThere setup(8);
  const auto towers = setup.towers();
  const auto accumulated = [&](std::int64_t chunk) {
    return compare_steps(
        [&] { return direct_step(towers, setup.loss(), there().direct()); },
        [&] { return accumulated_step(towers, setup.loss(), {.chunk_sizes = {chunk}, .device = kCuda}); },
        setup.parameters());
  };
  BOOST_TEST(accumulated(2).relative_norm > 1e-2);
  check_equal(accumulated(8), 1e-12);
}

BOOST_AUTO_TEST_CASE(chunks_of_every_size_with_and_without_kept_tapes, *on_device) {
  for (const auto& [dtype, tolerance] : kTypes) {
    const ClipThere setup(9, dtype);
    for (std::int64_t chunk = 1; chunk <= setup.n + 1; ++chunk) {
      for (const std::int64_t kept : {0, 1, 20}) {
        BOOST_TEST_CONTEXT(name(dtype) << ", chunks of " << chunk << ", " << kept << " kept") {
          begin_random_step(5, 3);
          StepOptions options = there();
          options.cut = MemoryPlan{{chunk, std::max<std::int64_t>(1, chunk - 1)}, kept};
          check_equal(compare(setup.towers(), setup.loss(), options, setup.parameters()), tolerance);
        }
      }
    }
    begin_random_step(1, 1);
    direct_step(setup.towers(), setup.loss(), there().direct());
    const RandomState after = random_state();
    begin_random_step(1, 1);
    cached_step(setup.towers(), setup.loss(), there({4}));
    BOOST_TEST((random_state() == after));
  }
}

BOOST_AUTO_TEST_CASE(tied_towers_and_hard_negatives_and_frozen_towers, *on_device) {
  for (const auto& [dtype, tolerance] : kTypes) {
    const Encoder shared = moved(Encoder(40, dtype, 0.2));
    const Parameter scale("scale", Tensor::full({}, 2.0, dtype, kCuda));
    const std::vector<Tower> towers{{"query", values_there({5, 5}, 1, dtype), shared},
                                    {"passage", values_there({15, 5}, 2, dtype), shared}};
    const Loss loss = [&](std::span<const Variable> r) { return info_nce(r[0], r[1], {.scale = scale}); };
    check_equal(compare(towers, loss, there({2, 4}), joined({shared.parameters(), {scale}})), tolerance);

    ClipThere setup(8, dtype);
    for (Parameter p : setup.image.parameters()) p.set_requires_gradient(false);
    cached_step(setup.towers(), setup.loss(), there({3}));
    for (const Parameter& p : setup.image.parameters()) BOOST_TEST(!p.gradient().defined());
    gradients_of(setup.parameters());
    check_equal(compare(setup.towers(), setup.loss(), there({3}), setup.text.parameters()), tolerance);
  }
}

BOOST_AUTO_TEST_CASE(auxiliary_losses_and_a_loss_scale, *on_device) {
  for (const auto& [dtype, tolerance] : kTypes) {
    const Encoder encoder = moved(Encoder(1, dtype, 0.2));
    const auto encode = [&](const Tensor& x) {
      const Variable y = encoder(x);
      return Encoded{{{"pooled", y}, {"squashed", ops::tanh(y)}}, {{"size", ops::mean(ops::exp(y), 1), 0.7}}};
    };
    const std::vector<Tower> towers{{"x", values_there({7, 5}, 2, dtype), encode}};
    const Loss loss = [](const Representations& r) { return info_nce(r.at("x.pooled"), r.at("x.squashed")); };
    StepOptions options = there({3});
    options.scale = 0.25;
    check_equal(compare(towers, loss, options, encoder.parameters()), tolerance);
    const StepResult direct = direct_step(towers, loss, options.direct()), cached = cached_step(towers, loss, options);
    BOOST_REQUIRE((direct.auxiliary.size() == 1 && cached.auxiliary.size() == 1));
    BOOST_TEST(cached.auxiliary[0].mean > 0);
  }
}

BOOST_AUTO_TEST_CASE(reproducible_steps_on_a_device_are_equal_to_the_last_bit, *on_device) {
  for (const DType precision : {DType::kFloat32, DType::kBFloat16}) {
    const ClipThere setup(27, DType::kFloat32);
    StepOptions options = there();
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

BOOST_AUTO_TEST_CASE(steps_in_bf16_are_close_to_those_on_the_cpu, *on_device) {
  const ClipSetup near(10, DType::kFloat32, 0.2);
  const ClipThere far(10, DType::kFloat32, 0.2);
  StepOptions options{{4}};
  options.autocast = DType::kBFloat16;
  begin_random_step(1, 1);
  const StepResult expected = cached_step(near.towers(), near.loss(), options);
  options.device = kCuda;
  begin_random_step(1, 1);
  const StepResult found = cached_step(far.towers(), far.loss(), options);
  check_alike(found, far.parameters(), expected, near.parameters(), 2e-2);
  check_equal(compare(far.towers(), far.loss(), options, far.parameters()), 2e-2);
}

BOOST_AUTO_TEST_CASE(chunks_by_tokens_with_attention_equal_the_padded_batch, *on_device) {
  std::vector<std::vector<std::int32_t>> words;
  for (std::int64_t i = 0; i < 9; ++i) {
    words.emplace_back(static_cast<std::size_t>(1 + i * 5 % 8), static_cast<std::int32_t>(i));
  }
  const models::TokenBatch batch = models::TokenBatch::pad(words).to(kCuda);
  for (const auto& [dtype, tolerance] : kTypes) {
    const models::Builder builder(5, dtype);
    const models::TextTransformer tower(
        builder, {.vocabulary = 10,
                  .max_tokens = 8,
                  .causal = true,
                  .pooling = models::TextPooling::kLastToken,
                  .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 16, .dropout = 0.2}});
    builder.to(kCuda);
    const Encoder other = moved(Encoder(1, dtype, 0.2, 5, 7, 8));
    const std::vector<Tower> towers{
        {"text", batch, [&](const models::TokenBatch& tokens) { return ops::l2_normalize(tower(tokens)); }},
        {"other", values_there({9, 5}, 6, dtype), other}};
    const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
    for (const std::int64_t tokens : {1, 13, 1000}) {
      StepOptions options = there({4});
      options.cut = ChunkTokens{tokens, {4}};
      options.check_recompute = true;
      begin_random_step(2, 5);
      BOOST_TEST(compare(towers, loss, options).relative_norm <= tolerance);
    }
  }
}

BOOST_AUTO_TEST_CASE(sub_batches_from_a_loader_make_the_big_one, *on_device) {
  const ClipThere setup(7, DType::kFloat64);
  const auto parts = [](const std::string& name, const Encoder& encoder, const Tensor& x, std::int64_t at) {
    CachedBatch batch{name, {cached(encoder, x.slice(0, at))}};
    batch.chunks.push_back(cached(encoder, x.slice(at, x.size(0)), {.after = &batch.chunks.back()}));
    return batch;
  };
  const auto by_parts = [&] {
    const std::vector<CachedBatch> towers{parts("image", setup.image, setup.images, 3),
                                          parts("text", setup.text, setup.texts, 6)};
    return cached_backward(towers, setup.loss(), {.device = kCuda});
  };
  begin_random_step(3, 4);
  check_equal(compare_steps([&] { return direct_step(setup.towers(), setup.loss(), there().direct()); }, by_parts,
                            setup.parameters()),
              1e-12);
}

BOOST_AUTO_TEST_CASE(what_is_not_finite_is_named, *on_device) {
  const ClipThere setup(6, DType::kFloat32, 0);
  const Loss bad_loss = [](std::span<const Variable> r) {
    return ops::scale(info_nce(r[0], r[1]), std::numeric_limits<double>::infinity());
  };
  BOOST_TEST((cached_step(setup.towers(), bad_loss, there({2})).status == StepStatus::kNonFiniteLoss));
  Tensor factors = Tensor::full({6, 1}, 1.0);
  factors.slice(3, 4).fill(std::numeric_limits<double>::infinity());
  const Loss bad_slope = [factors = factors.to(kCuda)](std::span<const Variable> r) {
    // 0 · Inf is in the gradient of sample 3 alone.
    return ops::add(info_nce(r[0], r[1]),
                    ops::sum(ops::sum(ops::scale(ops::tanh(ops::multiply(r[1], factors)), 0.1), 1), 0));
  };
  const StepResult result = cached_step(setup.towers(), bad_slope, there({2}));
  BOOST_TEST((result.status == StepStatus::kNonFiniteCache));
  BOOST_TEST(result.message.find("'text' is not finite, first at sample 3, in chunk 1 of 3") != std::string::npos,
             result.message);
  for (const Parameter& p : setup.parameters()) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(a_second_forward_that_differs_is_noticed, *on_device) {
  const ClipThere setup(6);
  int calls = 0;
  const auto drifting = [&](const Tensor& x) { return ops::scale(setup.image(x), 1.0 + 1e-9 * ++calls); };
  const std::vector<Tower> towers{{"image", setup.images, drifting}, {"text", setup.texts, setup.text}};
  StepOptions options = there({2});
  options.check_recompute = true;
  BOOST_CHECK_EXCEPTION(cached_step(towers, setup.loss(), options), ValueError,
                        says({"'image'", "differs from the first"}));
  GradCache grad_cache(setup.loss(), there({2}), {.every = 1, .samples = 4});
  grad_cache.step(setup.towers());
  BOOST_REQUIRE(grad_cache.checked().has_value());
  check_equal(*grad_cache.checked(), 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
