#pragma once

#include <cstdint>
#include <vector>

#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/clip.h"

namespace gradcache_bench {

/// A CLIP over random samples.
struct Workload {
  tapecache::models::Clip clip;
  tapecache::Tensor images;
  tapecache::models::TokenBatch texts;

  explicit Workload(std::int64_t samples, const tapecache::models::ClipConfig& config = demo_size())
      : clip(config, 1), images(random_images(samples, config)), texts(random_texts(samples, config)) {}

  /// The ids are random, without an end of text.
  static constexpr auto kPooling = tapecache::models::TextConfig::Pooling::kLastToken;

  static tapecache::models::ClipConfig demo_size() {
    const tapecache::models::TransformerConfig encoder{
        .width = 64, .layers = 3, .heads = 4, .mlp_width = 256, .dropout = 0.1};
    return {.vision = {.image_size = 32, .patch_size = 8, .encoder = tapecache::models::VisionEncoderConfig(encoder)},
            .text = {.vocabulary = 1000, .max_tokens = 16, .pooling = kPooling, .encoder = encoder},
            .projection_width = 64};
  }
  /// ViT-Ti/4 of 32 × 32 images, and a text tower of its width.
  static tapecache::models::ClipConfig vit_tiny() {
    const tapecache::models::TransformerConfig encoder{
        .width = 192, .layers = 12, .heads = 3, .mlp_width = 768, .dropout = 0.1};
    return {.vision = {.image_size = 32, .patch_size = 4, .encoder = tapecache::models::VisionEncoderConfig(encoder)},
            .text = {.vocabulary = 1000, .max_tokens = 32, .pooling = kPooling, .encoder = encoder},
            .projection_width = 192};
  }
  static tapecache::Tensor random_images(std::int64_t samples, const tapecache::models::ClipConfig& config) {
    const std::int64_t size = config.vision.image_size;
    tapecache::Tensor images = tapecache::Tensor::empty({samples, 3, size, size});
    float* p = images.mutable_data<float>();
    std::uint32_t state = 1;
    for (std::int64_t i = 0; i < images.numel(); ++i) {
      p[i] = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
    }
    return images;
  }
  static tapecache::models::TokenBatch random_texts(std::int64_t samples, const tapecache::models::ClipConfig& config) {
    tapecache::Tensor ids = tapecache::Tensor::empty({samples, config.text.max_tokens}, tapecache::DType::kInt32);
    std::int32_t* p = ids.mutable_data<std::int32_t>();
    std::uint32_t state = 2;
    for (std::int64_t i = 0; i < ids.numel(); ++i) {
      p[i] = static_cast<std::int32_t>((state = state * 1664525u + 1013904223u) >> 16) % 1000;
    }
    return {ids, {}};
  }

  /// The tower that takes more memory is last: its backward runs first, while all of the other's data is held.
  std::vector<tapecache::gradcache::Tower> towers() const {
    return {{"text", texts, [this](const tapecache::models::TokenBatch& x) { return clip.encode_text(x); }},
            {"image", images, [this](const tapecache::Tensor& x) { return clip.encode_image(x); }}};
  }
  tapecache::gradcache::Loss loss() const {
    return [this](std::span<const tapecache::Variable> r) {
      using namespace tapecache::losses;
      return clip_loss(r[1], r[0], {.scale = Scale::from_log(clip.logit_scale())});
    };
  }
  void clear_gradients() {
    for (tapecache::Parameter p : clip.parameters()) p.clear_gradient();
  }
};

}  // namespace gradcache_bench
