#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/ops/equal_targets.h"
#include "tapecache/ops/kernels/contrastive.h"

#pragma GCC visibility push(hidden)

namespace tapecache::ops {

/// A contrastive loss over the logits z = scale · a bᵀ + bias of a [rows, width] and b [columns, width], which are
/// never in memory: forward takes running logsumexps over tiles, backward computes each tile again (the idea of Inf-CL,
/// Cheng et al. 2024). The positive of row i is column i · columns / rows. kRowsAndColumns updates both directions from
/// one pass over the tiles. `scale` is a scalar; `bias` too, for kSigmoid, and undefined else. Extra memory: a group of
/// tiles, and a few numbers for each row and column. Sums across tiles are in f64 and in a fixed order.
/// Pairs that `equal` leaves out, a being queries and b targets, are no terms of any of the losses, in either
/// direction. Throws ShapeError for shapes that do not fit, DTypeError for types that do not, ValueError for what is
/// undefined, a tile below 1 sample or a bias that there is no use for, and what pair_ids throws.
Variable contrastive_loss(kernels::ContrastiveOp op, const Variable& a, const Variable& b, const Variable& scale,
                          const Variable& bias = {}, const TileOptions& tile = {}, const EqualTargets& equal = {});

namespace detail {
/// Throws ValueError for a tile below 1 sample; `own` are the device's sizes.
kernels::TileSizes tile_sizes(const char* op, const TileOptions&, const kernels::TileSizes& own);
}  // namespace detail

}  // namespace tapecache::ops

#pragma GCC visibility pop
