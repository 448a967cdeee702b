#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"

namespace tapecache::kernels::cuda {

namespace {

template <class T>
__global__ void copy_blocks_kernel(std::int64_t n, std::int64_t length, const T* x, std::int64_t x_stride, T* y,
                                   std::int64_t y_stride, Mode mode) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const std::int64_t block = i / length, at = i - block * length;
    put(y[block * y_stride + at], x[block * x_stride + at], mode);
  }
}

constexpr unsigned kTile = 32, kTileRows = 8;

/// y [outer, b, middle, a] of x [outer, a, middle, b]: a block moves a tile of one matrix, [a, b], so that it reads and
/// writes whole lines.
template <class T>
__global__ void transpose_matrices_kernel(std::int64_t outer, std::int64_t a, std::int64_t middle, std::int64_t b,
                                          const T* x, T* y, Mode mode) {
  __shared__ T tile[kTile][kTile + 1];  // the column more puts a column's elements in different banks
  const unsigned lane = threadIdx.x % kTile, row = threadIdx.x / kTile;
  const std::int64_t down = (a + kTile - 1) / kTile, across = (b + kTile - 1) / kTile;
  for (std::int64_t at = blockIdx.x; at < outer * middle * down * across; at += gridDim.x) {
    const std::int64_t first_b = at % across * kTile, first_a = at / across % down * kTile, matrix = at / across / down;
    const std::int64_t o = matrix / middle, m = matrix % middle;
    for (unsigned i = row; i < kTile; i += kTileRows) {
      if (first_a + i < a && first_b + lane < b)
        tile[i][lane] = x[((o * a + first_a + i) * middle + m) * b + first_b + lane];
    }
    __syncthreads();
    for (unsigned j = row; j < kTile; j += kTileRows) {
      if (first_b + j < b && first_a + lane < a) {
        put(y[((o * b + first_b + j) * middle + m) * a + first_a + lane], tile[lane][j], mode);
      }
    }
    __syncthreads();  // tile is free again
  }
}

template <class T>
__global__ void transpose_blocks_kernel(std::int64_t n, std::int64_t a, std::int64_t middle, std::int64_t b,
                                        std::int64_t inner, const T* x, T* y, Mode mode) {
  for (std::int64_t at = thread_index(); at < n; at += thread_count()) {
    std::int64_t rest = at / inner;
    const std::int64_t k = at - rest * inner, i = rest % a;
    rest /= a;
    const std::int64_t m = rest % middle;
    rest /= middle;
    const std::int64_t j = rest % b, o = rest / b;
    put(y[at], x[(((o * a + i) * middle + m) * b + j) * inner + k], mode);
  }
}

template <class T>
void copy_blocks(std::int64_t count, std::int64_t length, const T* x, std::int64_t x_stride, T* y,
                 std::int64_t y_stride, Mode mode) {
  const std::int64_t n = count * length;
  launch(copy_blocks_kernel<T>, grid_for(n), n, length, x, x_stride, y, y_stride, mode);
}

template <class T>
void transpose(std::int64_t outer, std::int64_t a, std::int64_t middle, std::int64_t b, std::int64_t inner, const T* x,
               T* y, Mode mode) {
  const std::int64_t n = outer * a * middle * b * inner;
  if (inner == 1) {
    const std::int64_t tiles = outer * middle * divide_up(a, kTile) * divide_up(b, kTile);
    launch(transpose_matrices_kernel<T>, grid_of_rows(tiles, kTile * kTileRows), outer, a, middle, b, x, y, mode);
  } else {
    launch(transpose_blocks_kernel<T>, grid_for(n), n, a, middle, b, inner, x, y, mode);
  }
}

template <class T>
constexpr LayoutKernels<T> kLayout{
    .copy_blocks = copy_blocks<T>,
    .transpose = transpose<T>,
};

}  // namespace

template <>
const LayoutKernels<float> Provided<LayoutKernels<float>>::kernels = kLayout<float>;
template <>
const LayoutKernels<double> Provided<LayoutKernels<double>>::kernels = kLayout<double>;

}  // namespace tapecache::kernels::cuda
