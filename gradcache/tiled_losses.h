#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/equal_targets.h"
#include "tapecache/ops/contrastive.h"

/// The losses of losses.h without their logits: equal to them but for rounding, with memory for a few tiles
/// instead of rows × columns (Cheng et al. 2024, "Breaking the memory barrier: near infinite batch size scaling for
/// contrastive loss"). Arguments and errors are those of the plain losses, `equal` being ContrastiveOptions::equal_targets;
/// TileOptions below 1 throw ValueError.
namespace tapecache::gradcache {

using ops::TileOptions;

/// As info_nce: queries [M, width], targets [M·(1+h), width].
Variable tiled_info_nce(const Variable& queries, const Variable& targets, const Variable& scale,
                        const TileOptions& tile = {}, const EqualTargets& equal = {});
Variable tiled_info_nce(const Variable& queries, const Variable& targets, double scale = 20.0,
                        const TileOptions& tile = {}, const EqualTargets& equal = {});

/// As clip_loss, both directions from one pass over the tiles.
Variable tiled_clip_loss(const Variable& images, const Variable& texts, const Variable& log_scale,
                         const TileOptions& tile = {}, const EqualTargets& equal = {});

/// As siglip_loss.
Variable tiled_siglip_loss(const Variable& images, const Variable& texts, const Variable& log_scale,
                           const Variable& bias, const TileOptions& tile = {}, const EqualTargets& equal = {});

/// As maxsim_loss. Tiles count queries and documents, each of many tokens.
Variable tiled_maxsim_loss(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                           const Tensor& document_mask, const Variable& scale, const TileOptions& tile = {},
                           const EqualTargets& equal = {});

}  // namespace tapecache::gradcache
