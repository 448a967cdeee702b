#include "workloads.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <regex>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

namespace train_step {

using namespace tapecache;

namespace {

constexpr std::int64_t kClasses = 1000;

struct Random {
  std::uint32_t state;
  std::uint32_t next() { return (state = state * 1664525u + 1013904223u) >> 8; }
};

Tensor random_images(std::int64_t samples, std::int64_t size) {
  Tensor images = Tensor::empty({samples, 3, size, size});
  float* p = images.mutable_data<float>();
  Random random{1};
  for (std::int64_t i = 0; i < images.numel(); ++i) p[i] = static_cast<float>(random.next()) * 0x1p-23f - 1.0f;
  return images;
}

Tensor random_ids(const Shape& shape, std::int64_t below, std::uint32_t seed) {
  Tensor ids = Tensor::empty(shape, DType::kInt64);
  std::int64_t* p = ids.mutable_data<std::int64_t>();
  Random random{seed};
  for (std::int64_t i = 0; i < ids.numel(); ++i) p[i] = random.next() % below;
  return ids;
}

/// Of a stack over rows [samples · tokens, width], forward alone; without what the last block need not compute
/// where one token a sample is chosen.
template <class Config>
double transformer_flops(const Config& c, std::int64_t samples, std::int64_t tokens, bool chosen) {
  const auto rows = static_cast<double>(samples * tokens), width = static_cast<double>(c.width);
  const double projections = 3 * width * width + 2 * width * static_cast<double>(tokens);
  const double by_token = width * width + 2 * width * static_cast<double>(c.mlp_width);
  const double left_out = chosen ? static_cast<double>(samples * (tokens - 1)) * by_token : 0;
  return 2 * (rows * static_cast<double>(c.layers) * (projections + by_token) - left_out);
}

std::int64_t patches(const models::VisionConfig& c) {
  return (c.image_size / c.patch_size) * (c.image_size / c.patch_size);
}

double embedding_flops(const models::VisionConfig& c, std::int64_t samples) {
  return 2.0 * static_cast<double>(samples * patches(c) * c.encoder.width * c.channels * c.patch_size * c.patch_size);
}

double vision_forward_flops(const models::VisionConfig& c, std::int64_t samples) {
  return embedding_flops(c, samples) + transformer_flops(c.encoder, samples, patches(c) + 1, true);
}

double vision_flops(const models::VisionConfig& c, std::int64_t samples) {
  // No gradient goes to the images.
  return 3 * vision_forward_flops(c, samples) - embedding_flops(c, samples);
}

using VisionEncoder = models::VisionEncoderConfig;

template <class Config = models::TransformerConfig>
Config encoder(std::int64_t width, std::int64_t layers, std::int64_t heads,
               ops::Activation activation = ops::Activation::kGelu) {
  return {.width = width, .layers = layers, .heads = heads, .mlp_width = 4 * width, .activation = activation};
}

/// The chunks whose tapes a cached step keeps. The two forwarded last cost no memory: they are gone before the last
/// gradients come.
constexpr std::int64_t kKeptChunks = 2;

/// A loss on a tape of its own, taken backward.
double take_step(DType precision, const std::function<Variable()>& loss) {
  Tape tape;
  Variable value;
  {
    const Recording recording(tape);
    const Autocast autocast(precision);
    value = loss();
  }
  tape.backward(value);
  return value.value().item();
}

/// Images into classes.
class VisionWorkload : public Workload {
 public:
  VisionWorkload(const models::VisionConfig& config, std::int64_t samples, const Setting& setting)
      : precision_(setting.precision),
        builder_(1),
        vision_(builder_.child("vision"), config),
        head_(builder_.child("head"), config.encoder.width, kClasses, models::Init::normal(0.02)) {
    builder_.to(setting.device);
    parameters = builder_.parameters();
    inputs = {{"images", random_images(samples, config.image_size).to(setting.device)},
              {"classes", random_ids({samples}, kClasses, 2).to(setting.device)}};
    flops = vision_flops(config, samples) + 3 * 2.0 * static_cast<double>(samples * config.encoder.width * kClasses);
  }
  double loss_and_gradients() override {
    return take_step(precision_,
                     [&] { return ops::cross_entropy(head_(vision_(inputs.at("images"))), inputs.at("classes")); });
  }

 private:
  DType precision_;
  models::Builder builder_;
  models::VisionTransformer vision_;
  models::Linear head_;
};

/// CLIP over pairs, in one piece or in chunks.
class ClipWorkload : public Workload {
 public:
  ClipWorkload(const models::ClipConfig& config, std::int64_t samples, std::int64_t chunk, const Setting& setting)
      : clip_(config, 1), setting_(setting), chunk_(chunk) {
    clip_.to(setting.device);
    parameters = clip_.parameters();
    const models::TextConfig& text = config.text;
    inputs = {{"images", random_images(samples, config.vision.image_size).to(setting.device)},
              {"ids", random_ids({samples, text.max_tokens}, text.vocabulary, 3).to(setting.device)}};
    const TowerFlops forward = forward_flops(config, samples);
    flops = vision_flops(config.vision, samples) + 3 * forward.text;
    if (chunk > 0) {
      // Texts are forwarded last, so the kept tapes are theirs.
      const std::int64_t kept = std::min(samples, kKeptChunks * chunk);
      recomputed_flops =
          forward.image + forward.text * static_cast<double>(samples - kept) / static_cast<double>(samples);
    }
  }
  double loss_and_gradients() override {
    if (chunk_ == 0) {
      return take_step(setting_.precision, [&] {
        return losses::clip_loss(clip_.encode_image(inputs.at("images")), clip_.encode_text({inputs.at("ids"), {}}),
                                 {.scale = losses::Scale::from_log(clip_.logit_scale())});
      });
    }
    const std::vector<gradcache::Tower> towers{
        {"image", inputs.at("images"), [this](const Tensor& x) { return clip_.encode_image(x); }},
        {"text", models::TokenBatch{inputs.at("ids"), {}},
         [this](const models::TokenBatch& x) { return clip_.encode_text(x); }}};
    gradcache::StepOptions options{.cut = gradcache::MemoryPlan{{chunk_, chunk_}, kKeptChunks},
                                   .autocast = setting_.precision,
                                   .device = setting_.device,
                                   .observer = setting_.observer,
                                   .communicator = setting_.communicator};
    if (setting_.reduction != nullptr) options.reduction = *setting_.reduction;
    return gradcache::cached_step(
               towers,
               [this](auto r) {
                 return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(clip_.logit_scale())});
               },
               options)
        .loss.item();
  }

 private:
  models::Clip clip_;
  Setting setting_;
  std::int64_t chunk_;
};

/// MiniLM-L6 over pairs of sentences of one length.
class SentenceWorkload : public Workload {
 public:
  SentenceWorkload(std::int64_t pairs, std::int64_t tokens, const Setting& setting)
      : precision_(setting.precision), builder_(1), bert_(builder_, {}) {
    builder_.to(setting.device);
    parameters = builder_.parameters();
    const models::BertConfig config;
    inputs = {{"queries", random_ids({pairs, tokens}, config.vocabulary, 4).to(setting.device)},
              {"documents", random_ids({pairs, tokens}, config.vocabulary, 5).to(setting.device)}};
    flops = 2 * 3 * transformer_flops(config.encoder, pairs, tokens, false);
  }
  double loss_and_gradients() override {
    return take_step(precision_, [&] {
      const auto encode = [&](const char* side) { return ops::l2_normalize(bert_({inputs.at(side), {}})); };
      return losses::info_nce(encode("queries"), encode("documents"));
    });
  }

 private:
  DType precision_;
  models::Builder builder_;
  models::Bert bert_;
};

using Maker = std::function<std::unique_ptr<Workload>(const Setting&)>;

Maker clip(ClipSize size, std::int64_t samples, std::int64_t chunk) {
  return [=](const Setting& setting) { return make_clip(size, samples, chunk, setting); };
}

/// The CLIP that a name describes.
std::optional<Maker> described_clip(const std::string& name) {
  static const std::map<std::string, ClipSize> sizes{
      {"tiny", ClipSize::kTiny}, {"b_32", ClipSize::kBase32}, {"l_14", ClipSize::kLarge14}};
  static const std::regex pattern("clip_(tiny|b_32|l_14)_b([1-9][0-9]{0,6})(_cached_([1-9][0-9]{0,6}))?");
  std::smatch parts;
  if (!std::regex_match(name, parts, pattern)) return std::nullopt;
  return clip(sizes.at(parts[1]), std::stoll(parts[2]), parts[4].matched ? std::stoll(parts[4]) : 0);
}

const std::vector<std::pair<std::string, Maker>>& makers() {
  const auto vision = [](std::int64_t size, std::int64_t patch, std::int64_t width, std::int64_t heads,
                         std::int64_t samples) -> Maker {
    return [=](const Setting& setting) {
      return std::make_unique<VisionWorkload>(
          models::VisionConfig{
              .image_size = size, .patch_size = patch, .encoder = encoder<VisionEncoder>(width, 12, heads)},
          samples, setting);
    };
  };
  static const std::vector<std::pair<std::string, Maker>> all{
      {"vit_ti_4_32_b64", vision(32, 4, 192, 3, 64)},
      {"vit_s_8_64_b32", vision(64, 8, 384, 6, 32)},
      {"vit_b_32_224_b16", vision(224, 32, 768, 12, 16)},
      {"vit_b_32_224_b64", vision(224, 32, 768, 12, 64)},
      {"clip_b_32_b64", clip(ClipSize::kBase32, 64, 0)},
      {"clip_b_32_b64_cached_16", clip(ClipSize::kBase32, 64, 16)},
      {"minilm_l6_128_b64", [](const Setting& s) { return std::make_unique<SentenceWorkload>(64, 128, s); }},
  };
  return all;
}

}  // namespace

std::vector<std::string> workload_names() {
  std::vector<std::string> names;
  for (const auto& maker : makers()) names.push_back(maker.first);
  return names;
}

std::unique_ptr<Workload> make_workload(const std::string& name, const Setting& setting) {
  std::optional<Maker> maker = described_clip(name);
  for (const auto& [own, make] : makers()) {
    if (own == name) maker = make;
  }
  if (!maker) {
    throw ValueError(
        fmt::format("unknown workload '{}', expected one of {}, clip_{{tiny,b_32,l_14}}_b<batch>[_cached_<chunk>]",
                    name, fmt::join(workload_names(), ", ")));
  }
  std::unique_ptr<Workload> workload = (*maker)(setting);
  workload->name = name;
  return workload;
}

models::ClipConfig clip_config(ClipSize size) {
  constexpr auto kActivation = ops::Activation::kQuickGelu;
  constexpr auto kPooling = models::TextConfig::Pooling::kLastToken;  // ids are random, without an end of text
  switch (size) {
    case ClipSize::kTiny:
      return {
          .vision = {.image_size = 16, .patch_size = 8, .encoder = encoder<VisionEncoder>(32, 2, 2, kActivation)},
          .text = {.vocabulary = 64, .max_tokens = 8, .pooling = kPooling, .encoder = encoder(32, 2, 2, kActivation)},
          .projection_width = 16};
    case ClipSize::kBase32:
      return {
          .vision = {.image_size = 224, .patch_size = 32, .encoder = encoder<VisionEncoder>(768, 12, 12, kActivation)},
          .text = {.pooling = kPooling, .encoder = encoder(512, 12, 8, kActivation)}};
    case ClipSize::kLarge14:
      return {
          .vision = {.image_size = 224, .patch_size = 14, .encoder = encoder<VisionEncoder>(1024, 24, 16, kActivation)},
          .text = {.pooling = kPooling, .encoder = encoder(768, 12, 12, kActivation)},
          .projection_width = 768};
  }
  throw ValueError("unknown size of CLIP");
}

TowerFlops forward_flops(const models::ClipConfig& config, std::int64_t samples) {
  return {vision_forward_flops(config.vision, samples),
          transformer_flops(config.text.encoder, samples, config.text.max_tokens, true)};
}

std::unique_ptr<Workload> make_clip(ClipSize size, std::int64_t samples, std::int64_t chunk, const Setting& setting) {
  return std::make_unique<ClipWorkload>(clip_config(size), samples, chunk, setting);
}

}  // namespace train_step
