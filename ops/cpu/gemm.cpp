#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kWorkPerBlock = 1 << 17;  // multiplications below which products share a block
constexpr std::int64_t kRowGroup = 4;            // rows that Eigen's kernel computes together
constexpr std::int64_t kSmall = 20;              // Eigen sums products with m + n + k below this in another order

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using Strided = Eigen::Map<Matrix<T>, 0, Eigen::OuterStride<>>;
template <class T>
using ConstMap = Eigen::Map<const Matrix<T>>;

/// Tiles of C such that even a small product of long sums gives several threads work. Their width follows from n alone:
/// it decides the order in which Eigen sums, and a row's result must not depend on the number of rows.
struct Tiling {
  std::int64_t rows, cols, down, across;

  explicit Tiling(const Gemm& g) {
    cols = g.n <= 64 ? std::max<std::int64_t>(g.n, 1) : g.n <= 192 ? 64 : g.n <= 384 ? 128 : 256;
    across = (g.n + cols - 1) / cols;
    rows = 256;
    while (rows > 32 && (g.m + rows - 1) / rows * across < (rows > 64 ? 8 : 4)) rows /= 2;
    down = (g.m + rows - 1) / rows;
  }
};

/// A tile of C, with bias or the old values in it, plus op(A) op(B).
template <class T>
void add_product(const Gemm& g, const T* a, const T* b, std::int64_t row, std::int64_t col, Strided<T> tile) {
  const ConstMap<T> whole_a(a, g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k);
  const ConstMap<T> whole_b(b, g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n);
  const std::int64_t rows = tile.rows(), cols = tile.cols();
  if (cols + g.k < kSmall) {
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < cols; ++j) {
        T sum{0};
        for (std::int64_t k = 0; k < g.k; ++k) {
          sum += a[g.transpose_a ? k * g.m + row + i : (row + i) * g.k + k] *
                 b[g.transpose_b ? (col + j) * g.k + k : k * g.n + col + j];
        }
        tile(i, j) += sum;
      }
    }
    return;
  }
  const auto multiply = [&](const auto& left, auto&& to) {
    if (g.transpose_b) to.noalias() += left * whole_b.middleRows(col, cols).transpose();
    else to.noalias() += left * whole_b.middleCols(col, cols);
  };
  // Left-over rows go into a whole group padded with zeros, or Eigen would sum them in an order of their own.
  const std::int64_t rest = rows % kRowGroup, whole = rows - rest;
  if (whole > 0) {
    if (g.transpose_a) multiply(whole_a.middleCols(row, whole).transpose(), tile.topRows(whole));
    else multiply(whole_a.middleRows(row, whole), tile.topRows(whole));
  }
  if (rest > 0) {
    thread_local Matrix<T> left, right;
    left.setZero(kRowGroup, g.k);
    right.setZero(kRowGroup, cols);
    if (g.transpose_a) left.topRows(rest) = whole_a.middleCols(row + whole, rest).transpose();
    else left.topRows(rest) = whole_a.middleRows(row + whole, rest);
    right.topRows(rest) = tile.bottomRows(rest);
    multiply(left, right);
    tile.bottomRows(rest) = right.topRows(rest);
  }
}

template <class T>
void multiply_tile(const Gemm& g, const T* a, const T* b, const T* bias, T* c, Mode mode, std::int64_t row,
                   std::int64_t col, std::int64_t rows, std::int64_t cols) {
  Strided<T> tile(c + row * g.n + col, rows, cols, Eigen::OuterStride<>(g.n));
  if (mode == Mode::kWrite) tile.setZero();
  if (bias) tile.rowwise() += Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>>(bias + col, cols);
  if (g.k > 0) add_product(g, a, b, row, col, tile);
}

}  // namespace

template <class T>
void gemm(const Gemm& g, const T* a, const T* b, const T* bias, T* c, Mode mode) {
  const Tiling tiling(g);
  const std::int64_t tiles = tiling.down * tiling.across;
  const std::int64_t work = tiling.rows * tiling.cols * std::max<std::int64_t>(g.k, 1);
  parallel_for(g.batch * tiles, block_for(work, kWorkPerBlock), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t batch = i / tiles;
      const std::int64_t row = i % tiles / tiling.across * tiling.rows, col = i % tiling.across * tiling.cols;
      multiply_tile(g, a + batch * g.stride_a, b + batch * g.stride_b, bias, c + batch * g.stride_c, mode, row, col,
                    std::min(tiling.rows, g.m - row), std::min(tiling.cols, g.n - col));
    }
  });
}

template void gemm(const Gemm&, const float*, const float*, const float*, float*, Mode);
template void gemm(const Gemm&, const double*, const double*, const double*, double*, Mode);

}  // namespace tapecache::kernels::cpu
