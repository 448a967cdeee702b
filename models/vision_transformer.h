#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "tapecache/models/builder.h"
#include "tapecache/models/transformer_block.h"

namespace tapecache::models {

struct VisionConfig {
  enum class Pooling {
    kCls,        ///< the class token
    kMean,       ///< of the patches
    kAttention,  ///< what a learnt query finds among all tokens, and a perceptron makes of it, as in SigLIP
  };

  std::int64_t image_size = 224;
  std::int64_t patch_size = 32;
  std::int64_t channels = 3;
  Pooling pooling = Pooling::kCls;
  bool class_token = true;  ///< a learnt token before those of the patches
  bool patch_bias = false;
  bool pre_norm = true;  ///< a norm of what the encoder is given
  VisionEncoderConfig encoder = {};

  /// Returns the config. Throws ValueError where the patch does not divide the image, for sizes below 1, kCls without a
  /// class token and as that of the encoder.
  const VisionConfig& checked() const;
};

/// Image patches as tokens: `weight` [width, channels, patch, patch] and, unless there is none as in CLIP, `bias`.
class PatchEmbedding {
 public:
  /// Throws ValueError for sizes below 1.
  PatchEmbedding(const Builder& builder, std::int64_t channels, std::int64_t patch, std::int64_t width,
                 bool with_bias = false);
  /// images [batch, channels, height, width] to [batch, patches, width].
  Variable operator()(const Variable& images) const;

  Parameter weight, bias;  ///< bias undefined where there is none
};

/// CLIP's vision transformer (Dosovitskiy et al. 2021, Radford et al. 2021) or, as the configuration says, SigLIP's,
/// with parameter names as in a Hugging Face checkpoint's `vision_model`. Patch embedding by N(0, 0.02²), class
/// embedding by N(0, 1/width), as there; positions by N(0, 0.01²), as those of OpenAI's text tower.
class VisionTransformer : public Model {
 public:
  /// Throws as the config's `checked`, before the first parameter is made.
  VisionTransformer(const VisionConfig& config, std::uint64_t seed, DType dtype = DType::kFloat32)
      : VisionTransformer(Builder(seed, dtype), config) {}
  /// The same under the name of a builder, whose list other parts may share.
  VisionTransformer(const Builder& builder, const VisionConfig& config);
  /// images [batch, channels, size, size] to [batch, width]. Throws ShapeError.
  Variable operator()(const Variable& images) const;
  /// [batch, 1 + patches, width]: the class token's state, where there is one, and each patch's after the encoder,
  /// neither pooled nor normalised, as CLIP's `last_hidden_state` there. Throws ShapeError.
  Variable hidden_states(const Variable& images) const;

 private:
  struct AttentionPool;
  Variable embed(const Variable& images) const;

  VisionConfig config_;
  Parameter class_embedding_;  // undefined where there is none
  PatchEmbedding patches_;
  Embedding positions_;
  std::optional<LayerNorm> pre_norm_;
  TransformerEncoder encoder_;
  LayerNorm post_norm_;
  std::shared_ptr<const AttentionPool> attention_pool_;
};

}  // namespace tapecache::models
