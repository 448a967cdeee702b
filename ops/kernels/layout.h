#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/mode.h"

/// Copies between strided places, and transposition. All arrays are contiguous and row-major.
namespace tapecache::kernels {

template <class T>
struct LayoutKernels {
  // Copies `count` blocks of `length` elements between strided places.
  void (*copy_blocks)(std::int64_t count, std::int64_t length, const T* x, std::int64_t x_stride, T* y,
                      std::int64_t y_stride, Mode);
  // x [outer, a, middle, b, inner] to y [outer, b, middle, a, inner].
  void (*transpose)(std::int64_t outer, std::int64_t a, std::int64_t middle, std::int64_t b, std::int64_t inner,
                    const T* x, T* y, Mode);
};

}  // namespace tapecache::kernels
