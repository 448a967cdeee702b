#pragma once

#include <cstdint>

#include "tapecache/models/model.h"
#include "tapecache/models/text_transformer.h"
#include "tapecache/models/vision_transformer.h"

namespace tapecache::models {

struct ClipConfig {
  VisionConfig vision = {};
  TextConfig text = {};
  std::int64_t projection_width = 512;
  double initial_temperature = 0.07;
};

/// Throws ValueError for a projection width below 1, a temperature that is not above 0 and finite, and as that of each
/// tower; gives the config back.
const ClipConfig& check_config(const ClipConfig& config);

/// CLIP (Radford et al. 2021): two towers and their projections into one space. Parameters are named as in a Hugging
/// Face checkpoint (`vision_model.…`, `text_model.…`, `visual_projection.weight`, `text_projection.weight`,
/// `logit_scale`) and initialised as each part says; projections by N(0, 1/width), logit_scale by log(1/temperature).
class Clip : public Model {
 public:
  /// Throws as `check_config`, before the first parameter is made.
  Clip(const ClipConfig& config, std::uint64_t seed, DType dtype = DType::kFloat32)
      : Clip(Builder(seed, dtype), config) {}
  /// The same under the name of a builder, whose list other parts may share.
  Clip(const Builder& builder, const ClipConfig& config);

  /// images [batch, channels, size, size] to representations [batch, projection_width], of length 1 unless `normalize`
  /// is false.
  Variable encode_image(const Variable& images, bool normalize = true) const;
  /// The same of tokens.
  Variable encode_text(const TokenBatch& tokens, bool normalize = true) const;

  /// Logarithm of the factor that similarities are scaled by, a scalar.
  const Parameter& logit_scale() const { return logit_scale_; }
  const VisionTransformer& vision() const { return vision_; }
  const TextTransformer& text() const { return text_; }

 private:
  VisionTransformer vision_;
  TextTransformer text_;
  Linear visual_projection_, text_projection_;
  Parameter logit_scale_;
};

}  // namespace tapecache::models
