#include <span>
#include <string>
#include <vector>

#include "cuda_device.h"
#include "folder.h"
#include "model_checks.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/files.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/layers.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/train/optimizer.h"

// Whole models on a CUDA device, against the same on the CPU.

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

constexpr std::pair<DType, double> kTypes[] = {{DType::kFloat64, 1e-10}, {DType::kFloat32, 1e-4}};

BertConfig small_bert(double dropout, BertConfig::Pooling pooling) {
  return {.vocabulary = 11,
          .max_tokens = 6,
          .pooling = pooling,
          .encoder = {.width = 12,
                      .layers = 2,
                      .heads = 3,
                      .mlp_width = 20,
                      .activation = ops::Activation::kGelu,
                      .dropout = dropout,
                      .epsilon = 1e-12,
                      .checkpoint = dropout > 0}};
}

/// A CLIP and its batch on some device, the same for each.
struct ClipThere {
  Clip clip;
  Tensor images;
  TokenBatch texts;

  ClipThere(Device device, DType dtype, double dropout = 0.1, bool checkpoint = false)
      : clip(small_clip(dropout, checkpoint), 3, dtype),
        images(small_images(5, dtype).to(device)),
        texts(sentences().to(device)) {
    shake(clip.parameters(), 100);
    clip.to(device);
  }

  Variable loss() const {
    begin_random_step(1, 2);
    return losses::clip_loss(clip.encode_image(images), clip.encode_text(texts),
                             {.scale = losses::Scale::from_log(clip.logit_scale())});
  }
  std::vector<gradcache::Tower> towers() const {
    return {{"image", images, [this](const Tensor& x) { return clip.encode_image(x); }},
            {"text", texts, [this](const TokenBatch& x) { return clip.encode_text(x); }}};
  }
  gradcache::StepResult step(gradcache::StepOptions options, Device device) const {
    begin_random_step(1, 2);
    clear_gradients(clip.parameters());
    options.device = device;
    return gradcache::cached_step(
        towers(),
        [this](auto r) {
          return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(clip.logit_scale())});
        },
        options);
  }
};

void check_gradients(std::span<const Parameter> there, std::span<const Parameter> here, double tolerance) {
  BOOST_REQUIRE(there.size() == here.size());
  for (std::size_t i = 0; i < here.size(); ++i) {
    BOOST_REQUIRE(there[i].gradient().defined() == here[i].gradient().defined());
    if (!here[i].gradient().defined()) continue;
    BOOST_TEST((there[i].gradient().device() == kCuda));
    BOOST_TEST(max_difference(there[i].gradient(), here[i].gradient()) <= tolerance, here[i].name());
  }
}

/// ‖found - expected‖ / ‖expected‖ of all gradients together.
double distance(std::span<const Parameter> found, std::span<const Parameter> expected) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    BOOST_REQUIRE(found[i].gradient().defined() == expected[i].gradient().defined());
    if (!expected[i].gradient().defined()) continue;
    const std::vector<double> a = doubles(found[i].gradient()), b = doubles(expected[i].gradient());
    for (std::size_t k = 0; k < b.size(); ++k) {
      difference += (a[k] - b[k]) * (a[k] - b[k]);
      size += b[k] * b[k];
    }
  }
  return std::sqrt(difference / size);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(a_builder_moves_what_it_made, *on_device) {
  const Builder builder(1);
  const BatchNorm norm(builder.child("norm"), 4);
  const Linear linear(builder.child("linear"), 4, 3, Init::normal(1));
  const Parameter weight = linear.weight;
  const Tensor before = weight.value().clone(), held = weight.value();
  Parameter(weight).mutable_gradient() = before.clone();
  train::AdamW optimizer(builder.parameters());

  builder.to(kCuda);
  BOOST_TEST((builder.device() == kCuda));
  for (const Parameter& p : builder.parameters()) BOOST_TEST((p.value().device() == kCuda), p.name());
  for (const Buffer& b : builder.buffers()) BOOST_TEST((b.value.device() == kCuda), b.name);
  BOOST_TEST((weight.gradient().device() == kCuda));
  BOOST_TEST((norm.running_mean.device() == kCuda));
  BOOST_TEST(held.shares_storage(weight.value()));
  BOOST_TEST(same_bits(weight.value(), before));
  BOOST_TEST(same_bits(weight.gradient(), before));
  const Parameter later = builder.parameter("later", {3, 4}, Init::normal(1));
  BOOST_TEST((later.value().device() == kCuda));
  BOOST_TEST(same_bits(later.value(), Builder(1).parameter("later", {3, 4}, Init::normal(1)).value()));
  BOOST_TEST((builder.buffer("average", Tensor::zeros({2})).device() == kCuda));
  optimizer.step(0.1);
  BOOST_TEST(!same_bits(weight.value(), before));

  builder.to(Device::cpu());
  BOOST_TEST((norm.running_mean.device() == Device::cpu() && later.value().device() == Device::cpu()));
}

BOOST_AUTO_TEST_CASE(a_model_that_does_not_fit_stays_where_it_was, *on_device) {
  const Builder builder(1);
  const Linear small(builder.child("small"), 4, 3, Init::normal(1)),
      large(builder.child("large"), 1000, 100, Init::normal(1));
  const Tensor before = small.weight.value().clone();
  {
    const MemoryLimit limit(allocator(kCuda).stats().current + 10'000, kCuda);
    BOOST_CHECK_THROW(builder.to(kCuda), OutOfMemory);
  }
  BOOST_CHECK_EXCEPTION(builder.to(Device::cuda(Device::cuda_count())), DeviceError, says({"move_to"}));
  BOOST_TEST((builder.device() == Device::cpu()));
  for (const Parameter& p : builder.parameters()) BOOST_TEST((p.value().device() == Device::cpu()), p.name());
  BOOST_TEST(same_bits(small.weight.value(), before));
}

BOOST_AUTO_TEST_CASE(a_model_without_memory_for_it_goes_back_where_each_part_was, *on_device) {
  const Builder builder(1);
  Parameter first = builder.parameter("first", {1000}, Init::normal(1));
  Parameter there = builder.parameter("there", {10}, Init::normal(1));
  const Parameter large = builder.parameter("large", {100, 1000}, Init::normal(1));
  first.mutable_gradient() = Tensor::full({1000}, 1);
  there.move_to(kCuda);
  {
    const MemoryLimit limit(allocator(kCuda).stats().current + 10'000, kCuda);
    BOOST_CHECK_THROW(builder.to(kCuda), OutOfMemory);
  }
  BOOST_TEST((first.value().device() == Device::cpu()));
  BOOST_TEST((first.gradient().device() == Device::cpu()));
  BOOST_TEST((there.value().device() == kCuda));
  BOOST_TEST((large.value().device() == Device::cpu()));
}

BOOST_AUTO_TEST_CASE(a_buffer_without_memory_for_it_is_not_kept, *on_device) {
  const Builder builder(1);
  builder.to(kCuda);
  const Tensor value = Tensor::zeros({100'000});
  {
    const MemoryLimit limit(allocator(kCuda).stats().current + 10'000, kCuda);
    BOOST_CHECK_THROW(builder.buffer("b", value), OutOfMemory);
  }
  BOOST_TEST(builder.buffers().empty());
  BOOST_TEST((value.device() == Device::cpu()));
  BOOST_TEST((builder.buffer("b", value).device() == kCuda));
}

BOOST_AUTO_TEST_CASE(a_tape_notices_that_a_weight_was_moved, *on_device) {
  const Builder builder(1);
  const Linear linear(builder, 4, 3, Init::normal(1));
  Tape tape;
  const Variable x = tape.leaf(Tensor::full({2, 4}, 1));
  Variable y;
  {
    const Recording recording(tape);
    y = linear(x);
  }
  builder.to(kCuda);
  const Tensor seed = Tensor::full({2, 3}, 1);
  BOOST_CHECK_EXCEPTION(tape.backward(std::span(&y, 1), std::span(&seed, 1)), TapeError,
                        says({"changed after the forward"}));
}

BOOST_AUTO_TEST_CASE(inputs_on_another_device_are_refused, *on_device) {
  const ClipThere there(kCuda, DType::kFloat32);
  BOOST_CHECK_EXCEPTION(there.clip.encode_image(small_images(2, DType::kFloat32)), DeviceError,
                        says({"cpu", "cuda:0"}));
  BOOST_CHECK_EXCEPTION(there.clip.encode_text(sentences()), DeviceError, says({"cpu", "cuda:0"}));
  const ClipThere here(Device::cpu(), DType::kFloat32);
  BOOST_CHECK_THROW(here.clip.encode_text(there.texts), DeviceError);
}

BOOST_AUTO_TEST_CASE(clip_as_on_the_cpu, *on_device) {
  for (const auto& [dtype, tolerance] : kTypes) {
    for (const bool checkpoint : {false, true}) {
      const ClipThere here(Device::cpu(), dtype, 0.1, checkpoint), there(kCuda, dtype, 0.1, checkpoint);
      Tensor losses[2];
      run_backward([&] { return losses[0] = here.loss().value(), here.loss(); });
      run_backward([&] { return losses[1] = there.loss().value(), there.loss(); });
      BOOST_TEST((losses[1].device() == kCuda));
      BOOST_TEST(max_difference(losses[1], losses[0]) <= tolerance);
      check_gradients(there.clip.parameters(), here.clip.parameters(), tolerance);
    }
  }
}

BOOST_AUTO_TEST_CASE(bert_as_on_the_cpu, *on_device) {
  for (const auto& [dtype, tolerance] : kTypes) {
    for (const BertConfig::Pooling pooling : {BertConfig::Pooling::kMean, BertConfig::Pooling::kCls}) {
      for (const double dropout : {0.0, 0.2}) {
        const Builder here(6, dtype), there(6, dtype);
        const Bert a(here, small_bert(dropout, pooling)), b(there, small_bert(dropout, pooling));
        shake(here.parameters(), 400);
        shake(there.parameters(), 400);
        there.to(kCuda);
        const TokenBatch texts = sentences(), texts_there = texts.to(kCuda);
        Tensor values[2];
        run_backward(
            [&] { return begin_random_step(1, 2), values[0] = a(texts).value(), begin_random_step(1, 2), a(texts); });
        run_backward([&] {
          return begin_random_step(1, 2), values[1] = b(texts_there).value(), begin_random_step(1, 2), b(texts_there);
        });
        BOOST_TEST(max_difference(values[1], values[0]) <= tolerance);
        check_gradients(there.parameters(), here.parameters(), tolerance);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(modernbert_as_on_the_cpu, *on_device) {
  const Folder folder;
  put(folder / "config.json",
      R"({"model_type": "modernbert", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
          "num_attention_heads": 2, "local_attention": 2, "max_position_embeddings": 200})");
  SafetensorsFile file;
  const auto add = [&](const std::string& name, const Shape& shape) {
    file.tensors.emplace(name + ".weight", random_values(shape, 10 + file.tensors.size(), DType::kFloat32));
  };
  add("embeddings.tok_embeddings", {11, 8});
  for (const char* norm : {"embeddings.norm", "layers.1.attn_norm", "final_norm"}) add(norm, {8});
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    add(layer + "attn.Wqkv", {24, 8});
    add(layer + "attn.Wo", {8, 8});
    add(layer + "mlp_norm", {8});
    add(layer + "mlp.Wi", {12, 8});
    add(layer + "mlp.Wo", {8, 6});
  }
  write_safetensors(folder / "model.safetensors", file);
  for (const auto& [dtype, tolerance] : kTypes) {
    const PretrainedOptions options{.dtype = dtype, .checkpoint = true};
    const Pretrained here = load_pretrained(folder.path(), options), there = load_pretrained(folder.path(), options);
    there.to(kCuda);
    // Longer texts than the first have angles that were not made yet.
    for (const std::int64_t tokens : {5, 70}) {
      TokenBatch texts{Tensor::zeros({2, tokens}, DType::kInt64), Tensor::full({2, tokens}, 1, DType::kBool)};
      for (std::int64_t i = 0; i < 2 * tokens; ++i) texts.ids.mutable_data<std::int64_t>()[i] = i * i % 11;
      texts.valid.mutable_data<bool>()[2 * tokens - 1] = false;
      const TokenBatch texts_there = texts.to(kCuda);
      BOOST_TEST(max_difference(values_of([&] { return there.encode(texts_there); }),
                                values_of([&] { return here.encode(texts); })) <= tolerance);
      run_backward([&] { return here.encode(texts); });
      run_backward([&] { return there.encode(texts_there); });
      check_gradients(there.parameters(), here.parameters(), tolerance);
      clear_gradients(here.parameters());
      clear_gradients(there.parameters());
    }
  }
}

BOOST_AUTO_TEST_CASE(texts_as_on_the_cpu, *on_device) {
  TokenBatch ends = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 10, 10}, {4, 2, 3, 10}, {10}});
  TokenBatch pairs = TokenBatch::pad_pairs(std::vector<std::vector<std::int32_t>>{{1, 2}, {3}, {5, 6, 7}},
                                           std::vector<std::vector<std::int32_t>>{{4}, {9, 8, 7}, {1}});
  pairs.valid.mutable_data<bool>()[0] = false;
  BertConfig roberta = small_bert(0, BertConfig::Pooling::kCls);
  roberta.position_offset = 2;
  TextConfig text = small_text();
  text.pooling = TextConfig::Pooling::kEndOfText;
  for (const auto& [dtype, tolerance] : kTypes) {
    const Builder here(6, dtype), there(6, dtype);
    const Bert bert(here.child("bert"), roberta), bert_there(there.child("bert"), roberta);
    const TextTransformer clip(here.child("clip"), text), clip_there(there.child("clip"), text);
    there.to(kCuda);
    BOOST_TEST(max_difference(values_of([&] { return bert_there(pairs.to(kCuda)); }),
                              values_of([&] { return bert(pairs); })) <= tolerance);
    for (const bool masked : {true, false}) {
      if (!masked) ends.valid = Tensor();
      BOOST_TEST(max_difference(values_of([&] { return clip_there(ends.to(kCuda)); }),
                                values_of([&] { return clip(ends); })) <= tolerance);
    }
  }
}

BOOST_AUTO_TEST_CASE(cached_steps_as_on_the_cpu, *on_device) {
  // By tokens, samples come in another order, and draw by their own numbers.
  for (const gradcache::Cut& cut : {gradcache::Cut{2}, gradcache::Cut(gradcache::ChunkTokens{8, {2}})}) {
    const gradcache::StepOptions options{.cut = cut, .check_recompute = true};
    for (const auto& [dtype, tolerance] : kTypes) {
      const ClipThere here(Device::cpu(), dtype, 0.2), there(kCuda, dtype, 0.2);
      const gradcache::StepResult expected = here.step(options, Device::cpu()), found = there.step(options, kCuda);
      BOOST_TEST(std::abs(found.loss.item() - expected.loss.item()) <= tolerance);
      BOOST_TEST(found.peak_bytes > 0u);
      check_gradients(there.clip.parameters(), here.clip.parameters(), tolerance);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_step_within_a_memory_budget_of_the_device, *on_device) {
  const ClipThere there(kCuda, DType::kFloat32, 0.2);
  gradcache::StepOptions options;
  options.cut = gradcache::MemoryBudget{allocator(kCuda).stats().current + (1 << 20)};
  const gradcache::StepResult found = there.step(options, kCuda);
  BOOST_TEST((found.status == gradcache::StepStatus::kDone));
  BOOST_TEST(found.peak_bytes <= std::get<gradcache::MemoryBudget>(options.cut).bytes);
}

BOOST_AUTO_TEST_CASE(mixed_precision_as_near_to_f64_as_on_the_cpu, *on_device) {
  const ClipThere exact(Device::cpu(), DType::kFloat64), here(Device::cpu(), DType::kFloat32),
      there(kCuda, DType::kFloat32);
  const double loss = exact.step({.cut = {2}}, Device::cpu()).loss.item();
  for (const auto& [low, tolerance] : {std::pair{DType::kBFloat16, 3e-2}, std::pair{DType::kFloat16, 4e-3}}) {
    gradcache::StepOptions options{.cut = {2}};
    options.autocast = low;
    BOOST_TEST(std::abs(here.step(options, Device::cpu()).loss.item() - loss) <= tolerance * loss);
    BOOST_TEST(std::abs(there.step(options, kCuda).loss.item() - loss) <= tolerance * loss);
    const double cpu = distance(here.clip.parameters(), exact.clip.parameters());
    const double device = distance(there.clip.parameters(), exact.clip.parameters());
    BOOST_TEST(device <= tolerance);
    BOOST_TEST(device <= 1.5 * cpu);
    BOOST_TEST(cpu <= 1.5 * device);
  }
}

BOOST_AUTO_TEST_CASE(weights_pass_between_devices, *on_device) {
  const Folder folder;
  const Builder there(1, DType::kFloat32), here(2, DType::kFloat64);
  const Linear a(there.child("fc"), 5, 4, Init::normal(1)), b(here.child("fc"), 5, 4, Init::normal(1));
  const BatchNorm norm_a(there.child("norm"), 4), norm_b(here.child("norm"), 4);
  there.to(kCuda);
  Tensor(norm_a.running_mean).fill(3);
  save_weights(folder / "w", there);
  load_weights(folder / "w", here);
  BOOST_TEST(max_difference(b.weight.value(), a.weight.value()) == 0);
  check_equal(norm_b.running_mean, {3, 3, 3, 3});
  Parameter(b.weight).mutable_value().fill(0.5);
  save_weights(folder / "w", here);
  load_weights(folder / "w", there);  // f64 on the host into f32 on the device
  BOOST_TEST((a.weight.value().device() == kCuda));
  check_equal(a.weight.value(), std::vector<double>(20, 0.5));
}

BOOST_AUTO_TEST_CASE(running_averages_on_the_device, *on_device) {
  const Builder here(1, DType::kFloat64), there(1, DType::kFloat64);
  const BatchNorm a(here, 3), b(there, 3);
  there.to(kCuda);
  const Tensor x = random_values({7, 3}, 1);
  const NoRecording no_tape;
  BOOST_TEST(max_difference(b(x.to(kCuda)).value(), a(x).value()) <= 1e-12);
  BOOST_TEST(max_difference(b.running_mean, a.running_mean) <= 1e-12);
  BOOST_TEST(max_difference(b.running_var, a.running_var) <= 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
