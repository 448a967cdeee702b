#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/kernels/mode.h"

/// Images as rows of patches. All arrays are contiguous and row-major.
namespace tapecache::kernels {

template <class T>
struct PatchKernels {
  // x [batch, channels, height, width] to rows [batch, height/patch, width/patch, channels, patch, patch]; backward
  // is the inverse permutation.
  void (*patches)(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                  std::int64_t patch, const T* x, T* rows);
  void (*patches_backward)(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                           std::int64_t patch, const T* drows, T* dx, Mode);
};

/// Over bf16 and f16. Sums are taken in f32, and so is everything else before it is rounded.
template <class Low>
requires kLowPrecision<Low>
struct PatchKernels<Low> {
  // Of f32 images.
  void (*patches)(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width,
                  std::int64_t patch, const float* x, Low* rows);
};

}  // namespace tapecache::kernels
