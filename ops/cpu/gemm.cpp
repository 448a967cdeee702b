#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kMaxTileRows = 128;
constexpr std::int64_t kMaxTileCols = 512;
constexpr std::int64_t kWorkPerBlock = 1 << 17;  // multiplications below which products share a block

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using Strided = Eigen::Map<Matrix<T>, 0, Eigen::OuterStride<>>;
template <class T>
using ConstMap = Eigen::Map<const Matrix<T>>;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Tiles of C such that even a small product of long sums gives several threads work.
struct Tiling {
  std::int64_t rows, cols, down, across;

  explicit Tiling(const Gemm& g) {
    rows = std::clamp<std::int64_t>(round_up((g.m + 7) / 8, 16), 16, kMaxTileRows);
    cols = std::clamp<std::int64_t>(g.n, 1, kMaxTileCols);
    down = (g.m + rows - 1) / rows;
    across = (g.n + cols - 1) / cols;
  }
};

template <class T>
void multiply_tile(const Gemm& g, const T* a, const T* b, const T* bias, T* c, Mode mode, std::int64_t row,
                   std::int64_t col, std::int64_t rows, std::int64_t cols) {
  const ConstMap<T> whole_a(a, g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k);
  const ConstMap<T> whole_b(b, g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n);
  Strided<T> tile(c + row * g.n + col, rows, cols, Eigen::OuterStride<>(g.n));
  if (mode == Mode::kWrite) tile.setZero();
  if (bias) tile.rowwise() += Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>>(bias + col, cols);
  if (g.k == 0) return;
  const auto add = [&](const auto& left) {
    if (g.transpose_b) tile.noalias() += left * whole_b.middleRows(col, cols).transpose();
    else tile.noalias() += left * whole_b.middleCols(col, cols);
  };
  if (g.transpose_a) add(whole_a.middleCols(row, rows).transpose());
  else add(whole_a.middleRows(row, rows));
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
