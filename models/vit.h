#pragma once

#include <cstdint>

#include "tapecache/models/transformer_block.h"
#include "tapecache/models/vision_transformer.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

struct VitConfig {
  /// What images of another size than the positions are for.
  enum class OtherSizes { kRefused, kInterpolated, kAntialiased };

  std::int64_t image_size = 224, patch_size = 16, channels = 3;
  std::int64_t registers = 0;  ///< tokens without positions, behind the class token (Darcet et al. 2024)
  OtherSizes other_sizes = OtherSizes::kRefused;
  TransformerConfig encoder = {};
  double embedding_dropout = 0;
  BlockStyle block = {};
};

/// A vision transformer (Dosovitskiy et al. 2021) under the names that transformers' ViT and DINOv2 have in files.
class Vit {
 public:
  Vit(const Builder& builder, const VitConfig& config);
  /// images [batch, channels, height, width] to [batch, 1 + registers + patches, width]: each token's state after the
  /// last norm. Throws ShapeError.
  Variable hidden_states(const Variable& images) const;
  /// [batch, width]: the class token's.
  Variable operator()(const Variable& images) const;
  /// [batch, 2 · width]: the class token's, and the mean of the patches'.
  Variable class_and_patches(const Variable& images) const;

 private:
  Variable positions_for(std::int64_t rows, std::int64_t columns) const;
  Variable embed(const Variable& images) const;

  VitConfig config_;
  Parameter class_token_, positions_, registers_;  // registers undefined where there are none
  PatchEmbedding patches_;
  Dropout dropout_;
  TransformerEncoder encoder_;
  LayerNorm norm_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
