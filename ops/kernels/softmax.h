#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/binary.h"
#include "tapecache/ops/kernels/mode.h"

/// Softmax of rows, its logarithm, and their derivatives. All arrays are contiguous and row-major.
namespace tapecache::kernels {

template <class T>
struct SoftmaxKernels {
  // Rows of x [rows, cols]. Where mask is not null, `layout.b` strides it over x's shape (`layout.sizes`); false
  // entries get probability 0, and a row without a true entry is all 0.
  void (*softmax)(std::int64_t rows, std::int64_t cols, const T* x, const bool* mask, const Broadcast& layout, T* y);
  void (*softmax_backward)(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode);
  void (*log_softmax)(std::int64_t rows, std::int64_t cols, const T* x, T* y);
  void (*log_softmax_backward)(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx, Mode);
};

}  // namespace tapecache::kernels
