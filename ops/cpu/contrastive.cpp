#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/row_math.h"

// Rows of tiles are worked on one after the other, and in a row groups of a few tiles; the tiles of a group in
// parallel. A column belongs to one tile of each row of tiles, so what is summed over rows is summed in their order;
// what is summed over columns is combined in the order of the tiles. Neither depends on the number of threads.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kBlockRows = 256, kBlockWidth = 128;  // of da, for one thread

/// One tile of the logits: rows [row, row + rows) and columns [col, col + cols), stored with a stride of tile_cols.
template <class T>
struct Tile {
  T* z;
  std::int64_t row, col, rows, cols, stride;

  T* line(std::int64_t i) const { return z + i * stride; }
  /// The column within the tile of the positive of row i, or -1.
  std::int64_t positive(std::int64_t i, std::int64_t step) const {
    const std::int64_t at = (row + i) * step - col;
    return at >= 0 && at < cols ? at : -1;
  }
};

template <class T>
class Walk {
 public:
  Walk(const Contrastive& c, const T* a, const T* b, T scale, T bias, T* workspace)
      : c_(c),
        a_(a),
        b_(b),
        scale_(scale),
        bias_(bias),
        panel_(workspace),
        scaled_(workspace + c.tile_rows * c.group() * c.tile_cols),
        product_(scaled_ + c.tile_rows * c.width) {}

  /// For each row of tiles: for each group calls `on_tile(tile, place in the group)` in parallel, then
  /// `on_group(row, rows, tiles, is_first)`; then `on_row(row, rows)`.
  template <class OnTile, class OnGroup, class OnRow>
  void run(const OnTile& on_tile, const OnGroup& on_group, const OnRow& on_row) {
    for (std::int64_t row = 0; row < c_.rows; row += c_.tile_rows) {
      const std::int64_t rows = std::min(c_.tile_rows, c_.rows - row);
      map(
          rows * c_.width, scaled_, [s = set(scale_)](auto v) TAPECACHE_INLINE { return hn::Mul(v, s); },
          a_ + row * c_.width);
      for (first_ = 0; first_ < c_.tiles_across(); first_ += c_.group()) {
        const std::int64_t tiles = std::min(c_.group(), c_.tiles_across() - first_);
        parallel_for(tiles, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t t = begin; t < end; ++t) {
            const Tile<T> tile = this->tile(t, row, rows);
            fill(tile);
            on_tile(tile, t);
          }
        });
        on_group(row, rows, tiles, first_ == 0);
      }
      on_row(row, rows);
    }
  }

  /// The tile at place t of the present group.
  Tile<T> tile(std::int64_t t, std::int64_t row, std::int64_t rows) const {
    const std::int64_t col = (first_ + t) * c_.tile_cols;
    return {panel_ + t * c_.tile_rows * c_.tile_cols, row,         col, rows,
            std::min(c_.tile_cols, c_.cols - col),    c_.tile_cols};
  }
  const T* scaled() const { return scaled_; }
  T* product() const { return product_; }

 private:
  void fill(const Tile<T>& tile) const {
    for (std::int64_t i = 0; i < tile.rows; ++i) std::fill_n(tile.line(i), tile.cols, bias_);
    multiply<T>(tile.rows, tile.cols, c_.width, {scaled_, c_.width}, {b_ + tile.col * c_.width, c_.width, true}, tile.z,
                tile.stride, true);
    if (!c_.equal.some()) return;
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      for (std::int64_t j = 0; j < tile.cols; ++j) {
        if (c_.equal.excludes(tile.row + i, tile.col + j)) tile.line(i)[j] = static_cast<T>(kExcluded);
      }
    }
  }

  const Contrastive& c_;
  const T *a_, *b_;
  T scale_, bias_;
  T *panel_, *scaled_, *product_;
  std::int64_t first_ = 0;  // tile of the present group
};

/// Adds a tile to the columns' running sums. `top` and `total` are scratch for its columns.
template <class T>
void add_columns(const Tile<T>& tile, const RunningLogSumExp& columns, T* top, T* total) {
  for (std::int64_t j = 0; j < tile.cols; ++j) {
    top[j] = -std::numeric_limits<T>::infinity();
    total[j] = T{0};
  }
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    map(
        tile.cols, top, [](auto t, auto z) TAPECACHE_INLINE { return larger_of(t, z); }, top, tile.line(i));
  }
  for (std::int64_t j = 0; j < tile.cols; ++j) top[j] = std::isfinite(top[j]) ? top[j] : T{0};
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    map_to(
        Mode::kAccumulate, tile.cols, total, [](auto z, auto t) TAPECACHE_INLINE { return exponential(hn::Sub(z, t)); },
        tile.line(i), top);
  }
  for (std::int64_t j = 0; j < tile.cols; ++j) {
    columns.add(tile.col + j, total[j] == T{0} ? kNoSummand : static_cast<double>(top[j]),
                static_cast<double>(total[j]));
  }
}

/// Σ log(1 + eᶻ), with -z for the z of positives. The tile's logits are lost.
template <class T>
double sigmoid_loss(const Tile<T>& tile, std::int64_t step) {
  double loss = 0;
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    T* z = tile.line(i);
    const std::int64_t positive = tile.positive(i, step);
    if (positive >= 0) z[positive] = -z[positive];
    loss += sum_of<T>(
        tile.cols, [](auto sum, auto v) TAPECACHE_INLINE { return hn::Add(sum, softplus(v)); }, z);
  }
  return loss;
}

/// Turns a tile of logits into one of their gradients.
template <class T>
void differentiate(const Contrastive& c, const Tile<T>& tile, const double* row_logsumexp, const double* col_logsumexp,
                   double weight) {
  const T share = static_cast<T>(weight / static_cast<double>(c.rows));
  T *col_shift = nullptr, *col_rest = nullptr;
  if (c.op == ContrastiveOp::kRowsAndColumns) {
    col_shift = thread_scratch<T, Tile<T>>(2 * c.tile_cols);
    col_rest = col_shift + c.tile_cols;
    for (std::int64_t j = 0; j < tile.cols; ++j) {
      const LogSumExp<T> column = in_parts<T>(col_logsumexp[tile.col + j]);
      col_shift[j] = column.shift;
      col_rest[j] = column.rest;
    }
  }
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    T* z = tile.line(i);
    const std::int64_t positive = tile.positive(i, c.step);
    if (c.op == ContrastiveOp::kSigmoid) {  // σ(z), and -σ(-z) at positives, as σ(z) - 1 would cancel
      const T of_positive = positive < 0 ? T{0} : -share * hn::GetLane(logistic(set(-z[positive])));
      map(
          tile.cols, z, [s = set(share)](auto v) TAPECACHE_INLINE { return hn::Mul(s, logistic(v)); }, z);
      if (positive >= 0) z[positive] = of_positive;
      continue;
    }
    if (c.op == ContrastiveOp::kRows) {
      const LogSumExp<T> normalizer = in_parts<T>(row_logsumexp[tile.row + i]);
      map(
          tile.cols, z,
          [shift = set(normalizer.shift), factor = set(share * exponential_of(-normalizer.rest))](auto v)
              TAPECACHE_INLINE { return hn::Mul(factor, exponential(hn::Sub(v, shift))); },
          z);
    } else {
      const LogSumExp<T> normalizer = in_parts<T>(row_logsumexp[tile.row + i]);
      map(
          tile.cols, z,
          [shift = set(normalizer.shift), rest = set(normalizer.rest), half = set(share / T{2})](
              auto v, auto col_shifts, auto col_rests) TAPECACHE_INLINE {
            const auto of_row = exponential(hn::Sub(hn::Sub(v, shift), rest));
            return hn::Mul(half, hn::Add(of_row, exponential(hn::Sub(hn::Sub(v, col_shifts), col_rests))));
          },
          z, col_shift, col_rest);
    }
    if (positive >= 0) z[positive] -= share;
  }
}

template <class T>
TileSizes contrastive_tile() {
  return {512, 256};
}

/// A group of tiles, and two blocks of its rows.
template <class T>
std::int64_t contrastive_workspace(const Contrastive& c) {
  return c.tile_rows * (c.group() * c.tile_cols + 2 * c.width);
}

template <class T>
void contrastive(const Contrastive& c, const T* a, const T* b, const T* scale, const T* bias, double* row_logsumexp,
                 double* col_logsumexp, T* loss, T* workspace, double* partials) {
  Walk<T> walk(c, a, b, *scale, *bias, workspace);
  const std::int64_t part = c.group() * c.tile_rows;
  double *largest = partials, *sum = partials + part;
  const RunningLogSumExp rows_so_far{partials + 2 * part, partials + 2 * part + c.tile_rows};
  const RunningLogSumExp columns{partials + 2 * (part + c.tile_rows), partials + 2 * (part + c.tile_rows) + c.cols};
  std::fill_n(columns.largest, c.cols, kNoSummand);
  std::fill_n(columns.sum, c.cols, 0.0);
  double positives = 0, sigmoid = 0;
  walk.run(
      [&](const Tile<T>& tile, std::int64_t t) {
        if (c.op == ContrastiveOp::kSigmoid) {
          sum[t] = sigmoid_loss(tile, c.step);
          return;
        }
        for (std::int64_t i = 0; i < tile.rows; ++i) {
          const std::int64_t at = t * c.tile_rows + i;
          row_parts(tile.line(i), tile.cols, largest[at], sum[at]);
        }
        if (c.op == ContrastiveOp::kRowsAndColumns) {
          T* scratch = thread_scratch<T, Tile<T>>(2 * c.tile_cols);
          add_columns(tile, columns, scratch, scratch + c.tile_cols);
        }
      },
      [&](std::int64_t row, std::int64_t rows, std::int64_t tiles, bool is_first) {
        if (is_first) {
          std::fill_n(rows_so_far.largest, rows, kNoSummand);
          std::fill_n(rows_so_far.sum, rows, 0.0);
        }
        for (std::int64_t t = 0; t < tiles; ++t) {
          if (c.op == ContrastiveOp::kSigmoid) {
            sigmoid += sum[t];
            continue;
          }
          const Tile<T> tile = walk.tile(t, row, rows);
          for (std::int64_t i = 0; i < rows; ++i) {
            rows_so_far.add(i, largest[t * c.tile_rows + i], sum[t * c.tile_rows + i]);
            const std::int64_t positive = tile.positive(i, c.step);
            if (positive >= 0) positives += static_cast<double>(tile.line(i)[positive]);
          }
        }
      },
      [&](std::int64_t row, std::int64_t rows) {
        if (c.op == ContrastiveOp::kSigmoid) return;
        for (std::int64_t i = 0; i < rows; ++i) row_logsumexp[row + i] = rows_so_far.logsumexp(i);
      });
  const auto count = static_cast<double>(c.rows);
  if (c.op == ContrastiveOp::kSigmoid) {
    *loss = static_cast<T>(sigmoid / count);
    return;
  }
  double rows_loss = 0, cols_loss = 0;
  for (std::int64_t i = 0; i < c.rows; ++i) rows_loss += row_logsumexp[i];
  if (c.op == ContrastiveOp::kRows) {
    *loss = static_cast<T>((rows_loss - positives) / count);
    return;
  }
  for (std::int64_t j = 0; j < c.cols; ++j) cols_loss += col_logsumexp[j] = columns.logsumexp(j);
  *loss = static_cast<T>(0.5 * (rows_loss + cols_loss - 2 * positives) / count);
}

template <class T>
void contrastive_backward(const Contrastive& c, const T* a, const T* b, const T* scale, const T* bias,
                          const double* row_logsumexp, const double* col_logsumexp, const T* dloss, T* da, Mode da_mode,
                          T* db, Mode db_mode, T* dscale, T* dbias, T* workspace, double* partials) {
  Walk<T> walk(c, a, b, *scale, *bias, workspace);
  const auto weight = static_cast<double>(*dloss);
  const T factor = *scale;
  const std::int64_t blocks_across = (c.width + kBlockWidth - 1) / kBlockWidth;
  double of_scale = 0, of_bias = 0;
  walk.run(
      [&](const Tile<T>& tile, std::int64_t t) {
        differentiate(c, tile, row_logsumexp, col_logsumexp, weight);
        if (db) {
          // dB = scale dZᵀ A
          const bool accumulate = tile.row > 0 || db_mode == Mode::kAccumulate;
          multiply<T>(tile.cols, c.width, tile.rows, {tile.z, tile.stride, true}, {walk.scaled(), c.width},
                      db + tile.col * c.width, c.width, accumulate);
        }
        double sum = 0;
        for (std::int64_t i = 0; i < tile.rows; ++i) sum += row_sum(tile.line(i), tile.cols);
        partials[t] = sum;
      },
      [&](std::int64_t row, std::int64_t rows, std::int64_t tiles, bool is_first) {
        for (std::int64_t t = 0; t < tiles; ++t) of_bias += partials[t];
        const std::int64_t blocks = (rows + kBlockRows - 1) / kBlockRows * blocks_across;
        parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t block = begin; block < end; ++block) {
            const std::int64_t first = block / blocks_across * kBlockRows, w = block % blocks_across * kBlockWidth;
            const std::int64_t height = std::min(kBlockRows, rows - first), wide = std::min(kBlockWidth, c.width - w);
            // dZ B, of which dA is scale times and dscale the product with A
            T* product = walk.product() + first * c.width + w;
            for (std::int64_t t = 0; t < tiles; ++t) {
              const Tile<T> tile = walk.tile(t, row, rows);
              multiply<T>(height, wide, tile.cols, {tile.line(first), tile.stride},
                          {b + tile.col * c.width + w, c.width}, product, c.width, t > 0 || !is_first);
            }
          }
        });
      },
      [&](std::int64_t row, std::int64_t rows) {
        const T* product = walk.product();
        parallel_for(rows, block_for(c.width), [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            const T* of_row = product + i * c.width;
            const std::int64_t at = (row + i) * c.width;
            partials[i] = wide_dot(of_row, a + at, c.width);
            if (!da) continue;
            map_to(
                da_mode, c.width, da + at, [f = set(factor)](auto v) TAPECACHE_INLINE { return hn::Mul(v, f); },
                of_row);
          }
        });
        for (std::int64_t i = 0; i < rows; ++i) of_scale += partials[i];
      });
  *dscale = static_cast<T>(of_scale);
  *dbias = static_cast<T>(of_bias);
}

template <class T>
constexpr ContrastiveKernels<T> kContrastive{
    .contrastive_tile = contrastive_tile<T>,
    .contrastive_workspace = contrastive_workspace<T>,
    .contrastive = contrastive<T>,
    .contrastive_backward = contrastive_backward<T>,
};

}  // namespace

template <>
const ContrastiveKernels<float> Provided<ContrastiveKernels<float>>::kernels = kContrastive<float>;
template <>
const ContrastiveKernels<double> Provided<ContrastiveKernels<double>>::kernels = kContrastive<double>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
