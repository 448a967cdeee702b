#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "gradcache_checks.h"
#include "tapecache/models/clip.h"

namespace tapecache::testing {

/// A small CLIP whose activations weigh far more than its parameters.
struct SmallModel {
  models::Clip clip;
  Tensor images;
  models::TokenBatch texts;

  explicit SmallModel(std::int64_t samples, double dropout = 0.1, std::int64_t layers = 2)
      : clip(config(dropout, layers), 3),
        images(random_values({samples, 3, 16, 16}, 1, DType::kFloat32)),
        texts(make_texts(samples)) {}

  static models::ClipConfig config(double dropout, std::int64_t layers = 2) {
    const models::TransformerConfig encoder{
        .width = 16, .layers = layers, .heads = 2, .mlp_width = 32, .dropout = dropout};
    return {.vision = {.image_size = 16, .patch_size = 4, .encoder = models::VisionEncoderConfig(encoder)},
            .text = {.vocabulary = 30,
                     .max_tokens = 12,
                     .pooling = models::TextConfig::Pooling::kLastToken,
                     .encoder = encoder},
            .projection_width = 8};
  }
  static models::TokenBatch make_texts(std::int64_t samples) {
    std::vector<std::vector<std::int32_t>> words;
    for (std::int64_t i = 0; i < samples; ++i) {
      words.emplace_back(static_cast<std::size_t>(1 + i * 7 % 12), static_cast<std::int32_t>(i % 30));
    }
    return models::TokenBatch::pad(words);
  }
  std::vector<Tower> towers() const {
    return {{"image", images, [this](const Tensor& x) { return clip.encode_image(x); }},
            {"text", texts, [this](const models::TokenBatch& x) { return clip.encode_text(x); }}};
  }
  Loss loss() const {
    return [this](std::span<const Variable> r) {
      return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(clip.logit_scale())});
    };
  }
  void clear() {
    for (Parameter p : clip.parameters()) p.clear_gradient();
  }
};

/// Over all parameters together: the gradient of a key bias is 0, and what is left of it in f32 is noise.
inline void check_close(const Comparison& c, double tolerance) {
  BOOST_TEST(c.relative_norm <= tolerance);
  BOOST_TEST(std::abs(c.loss_reference - c.loss_other) <= tolerance * std::abs(c.loss_reference));
}

}  // namespace tapecache::testing
