#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu {

template <class T>
void copy_blocks(std::int64_t count, std::int64_t length, const T* x, std::int64_t x_stride, T* y,
                 std::int64_t y_stride, Mode mode) {
  parallel_for(count, block_for(length), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T* from = x + i * x_stride;
      T* to = y + i * y_stride;
      for (std::int64_t j = 0; j < length; ++j) put(to[j], from[j], mode);
    }
  });
}

template <class T>
void transpose(std::int64_t outer, std::int64_t a, std::int64_t middle, std::int64_t b, std::int64_t inner,
               const T* x, T* y, Mode mode) {
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

template void copy_blocks(std::int64_t, std::int64_t, const float*, std::int64_t, float*, std::int64_t, Mode);
template void copy_blocks(std::int64_t, std::int64_t, const double*, std::int64_t, double*, std::int64_t, Mode);
template void transpose(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const float*, float*,
                        Mode);
template void transpose(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const double*, double*,
                        Mode);

}  // namespace tapecache::kernels::cpu
