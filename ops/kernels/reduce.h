#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/kernels/mode.h"

/// Reductions of an axis, and sums of rows. All arrays are contiguous and row-major.
namespace tapecache::kernels {

enum class ReduceOp { kSum, kMean, kMax, kLogSumExp, kNorm };

template <class T>
struct ReduceKernels {
  // Reductions of x [outer, axis, inner] to y [outer, inner]. Of several maxima the first receives the gradient.
  void (*reduce)(ReduceOp, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, T* y, Mode);
  void (*reduce_backward)(ReduceOp, std::int64_t outer, std::int64_t axis, std::int64_t inner, const T* x, const T* y,
                          const T* dy, T* dx, Mode);

  // y = Σ over the rows of x [rows, cols], which begin `pitch` elements apart.
  void (*sum_rows)(std::int64_t rows, std::int64_t cols, std::int64_t pitch, const T* x, T* y, Mode);
};

/// Over bf16 and f16. Sums are taken in f32, and so is everything else before it is rounded.
template <class Low>
requires kLowPrecision<Low>
struct ReduceKernels<Low> {
  // Rounds x [rows, cols] to y, and puts the sum of its rows into sums [cols].
  void (*round_and_sum_rows)(std::int64_t rows, std::int64_t cols, const float* x, Low* y, float* sums, Mode);

  // As over f32.
  void (*sum_rows)(std::int64_t rows, std::int64_t cols, std::int64_t pitch, const Low* x, float* y, Mode);
};

}  // namespace tapecache::kernels
