#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/equal_pairs.h"
#include "tapecache/ops/kernels/mode.h"
#include "tapecache/ops/kernels/tiles.h"

/// Contrastive losses over the similarities of two sets, which exist one tile at a time. All arrays are contiguous and
/// row-major.
namespace tapecache::kernels {

/// Which cross-entropies a contrastive loss takes of its logits.
enum class ContrastiveOp {
  kRows,            // mean over rows of -log softmax
  kRowsAndColumns,  // the mean of that and of the same over columns
  kSigmoid,         // Σ log(1 + exp(∓z)) / rows, positives with the minus sign
};

/// A loss over the logits z = scale · a bᵀ + bias of a [rows, width] and b [cols, width], taken tile by tile. The
/// positive of row i is column i · step.
struct Contrastive {
  ContrastiveOp op = ContrastiveOp::kRows;
  std::int64_t rows = 0, cols = 0, width = 0, step = 1;
  std::int64_t tile_rows = 1, tile_cols = 1;
  EqualPairs equal = {};

  /// Tiles beside each other that are in memory together.
  static constexpr std::int64_t kGroup = 8;
  std::int64_t tiles_across() const { return (cols + tile_cols - 1) / tile_cols; }
  std::int64_t group() const { return tiles_across() < kGroup ? tiles_across() : kGroup; }
  /// Doubles: a maximum and a sum for each row in each tile of a group, for each row, and for each column.
  std::int64_t partials() const { return 2 * (group() + 1) * tile_rows + 2 * cols; }
};

template <class T>
struct ContrastiveKernels {
  // scale, bias, loss and the gradients of them are one element each. logsumexp over each row and (kRowsAndColumns)
  // column; neither is used by kSigmoid. Sums across tiles are in f64. The device says which tiles it works best with
  // where the caller does not, and how many elements its workspace has.
  TileSizes (*contrastive_tile)();
  std::int64_t (*contrastive_workspace)(const Contrastive&);
  void (*contrastive)(const Contrastive&, const T* a, const T* b, const T* scale, const T* bias, double* row_logsumexp,
                      double* col_logsumexp, T* loss, T* workspace, double* partials);
  // da and db may be null and must not overlap. dscale and dbias are written.
  void (*contrastive_backward)(const Contrastive&, const T* a, const T* b, const T* scale, const T* bias,
                               const double* row_logsumexp, const double* col_logsumexp, const T* dloss, T* da,
                               Mode da_mode, T* db, Mode db_mode, T* dscale, T* dbias, T* workspace, double* partials);
};

}  // namespace tapecache::kernels
