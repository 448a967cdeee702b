#pragma once

#include "tapecache/core/tensor.h"
#include "tapecache/ops/contrastive_options.h"
#include "tapecache/ops/kernels/tiles.h"

#pragma GCC visibility push(hidden)

/// What a loss that sees its logits tile by tile is made of, beside element-wise ops. Products are taken in the type of
/// their operands, whatever `Autocast` says, since a tile is computed again in backward.
namespace tapecache::ops {

/// a bᵀ of a [rows, width] and b [columns, width].
Tensor similarities(const Tensor& a, const Tensor& b);
/// sum [rows, width] += a b of a [rows, columns] and b [columns, width].
void add_product(const Tensor& a, const Tensor& b, Tensor& sum);
/// sum [columns, width] += aᵀ b of a [rows, columns] and b [rows, width].
void add_transposed_product(const Tensor& a, const Tensor& b, Tensor& sum);

/// Elements of a matrix that begin at (row, column) and go on one row down and `step` columns right, `count` of them.
struct Diagonal {
  std::int64_t row = 0, column = 0, step = 1, count = 0;

  /// What of it lies in a tile, counted from the tile's corner.
  Diagonal within(std::int64_t first_row, std::int64_t rows, std::int64_t first_column, std::int64_t columns) const;
};
/// Sets a diagonal of `matrix` that lies in it.
void fill_diagonal(Tensor& matrix, const Diagonal& diagonal, double value);

/// Elements (i, i) of a matrix of at least as many columns as rows: [rows].
Tensor diagonal_of(const Tensor& matrix);

/// Sizes for tiles of logits of this type: those given, else what the device has in memory together. Throws ValueError
/// for a tile below 1 sample.
kernels::TileSizes logit_tile(const char* op, const TileOptions& tile, DType dtype, Device device);

}  // namespace tapecache::ops

#pragma GCC visibility pop
