#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kPiece = 1 << 15;
constexpr std::int64_t kTile = 32;  // a tile of reads and writes stays in the first cache

template <class T>
void transpose_matrices(std::int64_t count, std::int64_t rows, std::int64_t cols, const T* x, T* y, Mode mode) {
  const std::int64_t down = (cols + kTile - 1) / kTile;  // tile rows of the result
  parallel_for(count * down, block_for(kTile * rows), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const T* from = x + strip / down * rows * cols;
      T* to = y + strip / down * rows * cols;
      const std::int64_t first = strip % down * kTile, last = std::min(cols, first + kTile);
      for (std::int64_t left = 0; left < rows; left += kTile) {
        const std::int64_t right = std::min(rows, left + kTile);
        T tile[kTile][kTile];  // writes then go to whole lines, and do not fight the reads for the same cache sets
        for (std::int64_t i = left; i < right; ++i) {
          for (std::int64_t j = first; j < last; ++j) tile[j - first][i - left] = from[i * cols + j];
        }
        for (std::int64_t j = first; j < last; ++j) {
          for (std::int64_t i = left; i < right; ++i) put(to[j * rows + i], tile[j - first][i - left], mode);
        }
      }
    }
  });
}

template <class T>
void copy_blocks(std::int64_t count, std::int64_t length, const T* x, std::int64_t x_stride, T* y,
                 std::int64_t y_stride, Mode mode) {
  // Long blocks are cut as well: a join along axis 0 is a single one.
  const std::int64_t pieces = std::max<std::int64_t>(1, (length + kPiece - 1) / kPiece);
  parallel_for(count * pieces, block_for(std::min(length, kPiece)), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t block = i / pieces, first = i % pieces * kPiece, last = std::min(length, first + kPiece);
      const T* from = x + block * x_stride;
      T* to = y + block * y_stride;
      for (std::int64_t j = first; j < last; ++j) put(to[j], from[j], mode);
    }
  });
}

template <class T>
void transpose(std::int64_t outer, std::int64_t a, std::int64_t middle, std::int64_t b, std::int64_t inner, const T* x,
               T* y, Mode mode) {
  if (inner == 1 && middle == 1) {
    transpose_matrices(outer, a, b, x, y, mode);
    return;
  }
  // Rows of the result [outer, b, middle]; each takes a blocks of `inner` from b · middle · inner apart.
  const std::int64_t stride = middle * b * inner;
  parallel_for(outer * b * middle, block_for(a * inner), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t m = row % middle, j = row / middle % b, o = row / middle / b;
      const T* from = x + ((o * a * middle + m) * b + j) * inner;
      T* to = y + row * a * inner;
      for (std::int64_t i = 0; i < a; ++i) {
        for (std::int64_t k = 0; k < inner; ++k) put(to[i * inner + k], from[i * stride + k], mode);
      }
    }
  });
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

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
