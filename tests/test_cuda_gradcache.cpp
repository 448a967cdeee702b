#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"
#include "loss_table.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/gradcache/losses_guided.h"
#include "tapecache/gradcache/losses_supervised.h"
#include "tapecache/gradcache/tiled_losses.h"
#include "tapecache/models/text_transformer.h"
#include "tapecache/ops/contrastive.h"
#include "tapecache/ops/maxsim.h"
#include "tapecache/ops/reduce.h"

// The cached step on a CUDA device: against the direct step there, and against the cached step on the CPU.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::testing;

namespace {

const auto on_device = boost::unit_test::precondition(needs_device);

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
      towers.emplace_back("tower" + name, input, [w = parameters.emplace_back("weight" + name, weight)](const Tensor& x) {
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

Encoder moved(Encoder encoder) {
  for (Parameter p : encoder.parameters()) p.move_to(kCuda);
  return encoder;
}

Tensor values_there(const Shape& shape, std::uint64_t seed, DType dtype = DType::kFloat64) {
  return random_values(shape, seed, dtype).to(kCuda);
}

/// Hidden layers that take far more memory than anything else, the room that products work in on a real device included.
struct WideThere {
  bool emulated = device_name(kCuda) == "emulated";
  std::int64_t samples = emulated ? 64 : 1024, hidden = emulated ? 64 : 8192;
  Encoder image = moved(Encoder(1, DType::kFloat32, 0.1, 8, hidden, 4));
  Encoder text = moved(Encoder(2, DType::kFloat32, 0.1, 8, hidden, 4));
  std::vector<Tower> towers{{"image", values_there({samples, 8}, 3, DType::kFloat32), image},
                            {"text", values_there({samples, 8}, 4, DType::kFloat32), text}};
  std::vector<Parameter> parameters = joined({image.parameters(), text.parameters()});
  Loss loss = [tile = TileOptions{samples / 8, samples / 64}](std::span<const Variable> r) {
    return tiled_info_nce(r[0], r[1], 3.0, tile);
  };
};

StepOptions there(std::vector<std::int64_t> chunk_sizes = {}) {
  StepOptions options{std::move(chunk_sizes)};
  options.device = kCuda;
  return options;
}

std::vector<Tensor> gradients_of(std::span<const Parameter> parameters) {
  std::vector<Tensor> gradients;
  for (Parameter p : parameters) {
    gradients.push_back(p.gradient());
    p.clear_gradient();
  }
  return gradients;
}

/// That both steps, from the same random state, give the same loss, representations and gradients.
void check_alike(const StepResult& found, std::span<const Parameter> far, const StepResult& expected,
                 std::span<const Parameter> near, double tolerance) {
  BOOST_TEST((found.status == StepStatus::kDone && expected.status == StepStatus::kDone));
  BOOST_TEST(std::abs(found.loss - expected.loss) <= tolerance * std::max(1.0, std::abs(expected.loss)));
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
  BOOST_TEST(sup_con(a, labels, 0.5).value().item() == sup_con(a, labels.to(kCuda), 0.5).value().item());
  const Tensor host_a = guide_a.to(Device::cpu()), host_b = guide_b.to(Device::cpu());
  const double by_device = gist_loss(a, b, guide_a, guide_b, {.margin = 0.1}).value().item();
  BOOST_TEST(std::abs(by_device - gist_loss(a, b, host_a, host_b, {.margin = 0.1}).value().item()) <= 1e-12);
  const Tensor mask = Tensor::full({6, 2}, 1, DType::kBool), tokens = values_there({6, 2, 4}, 5);
  BOOST_CHECK_EXCEPTION(ops::maxsim_loss(tokens, mask, tokens, {}, Tensor::full({}, 1, DType::kFloat64, kCuda)), DeviceError,
                        says({"query_mask", "cpu", "cuda:0"}));
}

BOOST_AUTO_TEST_CASE(accumulation_on_a_device_is_not_equal, *on_device) {
  const ClipThere setup(8);
  const auto towers = setup.towers();
  const auto accumulated = [&](std::int64_t chunk) {
    return compare_steps([&] { return direct_step(towers, setup.loss(), there()); },
                         [&] { return accumulated_step(towers, setup.loss(), there({chunk})); }, setup.parameters());
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
          options.memory_plan = MemoryPlan{{chunk, std::max<std::int64_t>(1, chunk - 1)}, kept};
          check_equal(compare(setup.towers(), setup.loss(), options, setup.parameters()), tolerance);
        }
      }
    }
    begin_random_step(1, 1);
    direct_step(setup.towers(), setup.loss(), there());
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
    const Loss loss = [&](std::span<const Variable> r) { return info_nce(r[0], r[1], Variable(scale)); };
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
    const StepResult direct = direct_step(towers, loss, options), cached = cached_step(towers, loss, options);
    BOOST_REQUIRE((direct.auxiliary.size() == 1 && cached.auxiliary.size() == 1));
    BOOST_TEST(cached.auxiliary[0].mean > 0);
  }
}

BOOST_AUTO_TEST_CASE(a_step_on_a_device_stays_within_its_budget, *on_device) {
  const WideThere setup;
  const StepResult direct = direct_step(setup.towers, setup.loss, there());
  gradients_of(setup.parameters);
  const std::size_t base = allocator(kCuda).stats().current, host_base = allocator().stats().current;
  const PeakMeter host(Device::cpu());
  for (const double part : {0.6, 1.5}) {
    StepOptions options = there();
    const auto share = static_cast<std::size_t>(part * static_cast<double>(direct.peak_bytes - base));
    options.memory_budget = MemoryBudget{base + share};
    BOOST_TEST_CONTEXT(part << " of what the direct step takes") {
      check_equal(compare(setup.towers, setup.loss, options, setup.parameters), 1e-5);
      const StepResult result = cached_step(setup.towers, setup.loss, options);
      gradients_of(setup.parameters);
      BOOST_TEST(result.peak_bytes <= options.memory_budget->bytes);
      BOOST_TEST((part < 1 ? result.chunks > 2 : result.kept_chunks == result.chunks));
    }
  }
  BOOST_TEST(allocator(kCuda).stats().limit == 0u);
  BOOST_TEST(host.peak() - host_base <= (direct.peak_bytes - base) / 10);
  StepOptions hopeless = there();
  hopeless.memory_budget = MemoryBudget{base + 1000};
  BOOST_CHECK_EXCEPTION(cached_step(setup.towers, setup.loss, hopeless), OutOfMemory, says({"memory budget", "'image'"}));
  for (const Parameter& p : setup.parameters) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(running_out_of_device_memory_halves_the_chunks, *on_device) {
  const WideThere setup;
  const std::size_t base = allocator(kCuda).stats().current;
  begin_random_step(1, 1);
  const std::size_t small = cached_step(setup.towers, setup.loss, there({setup.samples / 8})).peak_bytes;
  std::vector<Tensor> expected;
  for (const Tensor& gradient : gradients_of(setup.parameters)) expected.push_back(gradient.to(Device::cpu()));
  const MemoryLimit limit(small + (small - base) / 4, kCuda);
  StepOptions options = there({setup.samples});
  BOOST_CHECK_THROW(cached_step(setup.towers, setup.loss, options), OutOfMemory);
  for (const Parameter& p : setup.parameters) BOOST_TEST(!p.gradient().defined());
  options.retry_smaller_chunks = true;
  begin_random_step(1, 1);
  const StepResult retried = cached_step(setup.towers, setup.loss, options);
  const std::vector<Tensor> found = gradients_of(setup.parameters);
  for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(max_difference(found[i], expected[i]) <= 1e-5);
  BOOST_TEST(retried.retries > 0);
}

BOOST_AUTO_TEST_CASE(reproducible_steps_on_a_device_are_equal_to_the_last_bit, *on_device) {
  for (const DType precision : {DType::kFloat32, DType::kBFloat16}) {
    const ClipThere setup(27, DType::kFloat32);
    StepOptions options = there();
    options.reproducible = true;
    options.autocast = precision;
    begin_random_step(7, 3);
    const StepResult direct = direct_step(setup.towers(), setup.loss(), options);
    const std::vector<Tensor> expected = gradients_of(setup.parameters());
    for (const std::int64_t chunk : {8, 16, 32}) {
      for (const std::int64_t kept : {0, 2}) {
        BOOST_TEST_CONTEXT(name(precision) << ", chunks of " << chunk << ", " << kept << " kept") {
          options.memory_plan = MemoryPlan{{chunk, chunk}, kept};
          begin_random_step(7, 3);
          BOOST_TEST(cached_step(setup.towers(), setup.loss(), options).loss == direct.loss);
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
    const models::TextTransformer tower(builder, {.vocabulary = 10,
                                                  .max_tokens = 8,
                                                  .causal = true,
                                                  .pooling = models::TextPooling::kLastToken,
                                                  .encoder = {.width = 8, .layers = 1, .heads = 2, .mlp_width = 16,
                                                              .dropout = 0.2}});
    builder.to(kCuda);
    const Encoder other = moved(Encoder(1, dtype, 0.2, 5, 7, 8));
    const std::vector<Tower> towers{
        {"text", batch, [&](const models::TokenBatch& tokens) { return ops::l2_normalize(tower(tokens)); }},
        {"other", values_there({9, 5}, 6, dtype), other}};
    const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
    for (const std::int64_t tokens : {1, 13, 1000}) {
      StepOptions options = there({4});
      options.chunk_tokens = tokens;
      options.check_replay = true;
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
    return cached_backward(towers, setup.loss(), there());
  };
  begin_random_step(3, 4);
  check_equal(compare_steps([&] { return direct_step(setup.towers(), setup.loss(), there()); }, by_parts,
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
    return ops::add(info_nce(r[0], r[1]), ops::sum(ops::sum(ops::scale(ops::tanh(ops::multiply(r[1], factors)), 0.1), 1), 0));
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
  options.check_replay = true;
  BOOST_CHECK_EXCEPTION(cached_step(towers, setup.loss(), options), ValueError, says({"'image'", "differs from the first"}));
  GradCache grad_cache(setup.loss(), there({2}), {.every = 1, .samples = 4});
  grad_cache.step(setup.towers());
  BOOST_REQUIRE(grad_cache.checked().has_value());
  check_equal(*grad_cache.checked(), 1e-12);
}

BOOST_AUTO_TEST_CASE(tiled_losses_of_awkward_values_are_as_on_the_cpu, *on_device) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto gradients = [](Device device, const std::vector<Tensor>& inputs, const auto& loss) {
    Tape tape;
    std::vector<Variable> leaves;
    for (const Tensor& t : inputs) leaves.push_back(tape.leaf(t.to(device)));
    Variable value;
    {
      const Recording recording(tape);
      value = loss(leaves, device);
    }
    tape.backward(value);
    std::vector<Tensor> all{value.value()};
    for (const Variable& leaf : leaves) all.push_back(tape.gradient(leaf));
    return all;
  };
  const auto check = [&](const std::string& what, const std::vector<Tensor>& inputs, double tolerance, const auto& loss) {
    const std::vector<Tensor> found = gradients(kCuda, inputs, loss), expected = gradients(Device::cpu(), inputs, loss);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const std::vector<double> a = doubles(found[i]), b = doubles(expected[i]);
      BOOST_REQUIRE(a.size() == b.size());
      for (std::size_t k = 0; k < a.size(); ++k) {
        const bool same = a[k] == b[k] || (std::isnan(a[k]) && std::isnan(b[k])) ||
                          std::abs(a[k] - b[k]) <= tolerance * std::max(1.0, std::abs(b[k]));
        BOOST_CHECK_MESSAGE(same, what << ": " << i << "[" << k << "] is " << a[k] << ", on the CPU " << b[k]);
      }
    }
  };
  using kernels::ContrastiveOp;
  for (const ContrastiveOp op : {ContrastiveOp::kRows, ContrastiveOp::kRowsAndColumns, ContrastiveOp::kSigmoid}) {
    const auto loss = [op](std::span<const Variable> x, Device device) {
      const Variable bias = op == ContrastiveOp::kSigmoid ? Variable(Tensor::full({}, -3, x[0].dtype(), device)) : Variable();
      return ops::contrastive_loss(op, x[0], x[1], x[2], bias, {5, 2});
    };
    for (const auto& [dtype, tolerance] : kTypes) {
      const Tensor a = random_values({21, 6}, 1, dtype), b = random_values({21, 6}, 2, dtype);
      check("large logits", {a, b, Tensor::full({}, 500, dtype)}, 1e3 * tolerance, loss);
      check("equal logits", {a, b, Tensor::full({}, 0, dtype)}, tolerance, loss);
      Tensor lost = b.clone();
      lost.slice(7, 8).fill(kInfinity);
      check("infinite logits", {a, lost, Tensor::full({}, 1, dtype)}, tolerance, loss);
      lost.slice(7, 8).fill(std::numeric_limits<double>::quiet_NaN());
      check("logits that are no numbers", {a, lost, Tensor::full({}, 1, dtype)}, tolerance, loss);
    }
  }
  const auto maxsim = [](std::span<const Variable> x, Device device) {
    Tensor mask = Tensor::full({20, 40}, 1, DType::kBool);
    mask.slice(4, 5).fill(0);
    mask.mutable_data<bool>()[4 * 40 + 39] = true;
    return ops::maxsim_loss(x[0], {}, x[1], mask.to(device), x[2], {3, 2});
  };
  for (const auto& [dtype, tolerance] : kTypes) {
    const Tensor q = random_values({10, 3, 4}, 1, dtype), d = random_values({20, 40, 4}, 2, dtype);
    check("more tokens than a warp", {q, d, Tensor::full({}, 2, dtype)}, tolerance, maxsim);
    check("ties", {q, Tensor::full({20, 40, 4}, 0.5, dtype), Tensor::full({}, 2, dtype)}, tolerance, maxsim);
    Tensor lost = d.clone();
    lost.slice(3, 4).fill(std::numeric_limits<double>::quiet_NaN());
    check("similarities that are no numbers", {q, lost, Tensor::full({}, 2, dtype)}, tolerance, maxsim);
  }
}

BOOST_AUTO_TEST_SUITE_END()
