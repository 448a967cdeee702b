#pragma once

#include <array>
#include <cstdint>

#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels/mode.h"

/// Element-wise functions of two arguments, with broadcasting. All arrays are contiguous and row-major.
namespace tapecache::kernels {

enum class BinaryOp { kAdd, kSubtract, kMultiply, kDivide };

/// Strides by which two operands are read while the output shape is walked; 0 where an operand is repeated.
struct Broadcast {
  int rank = 0;
  std::array<std::int64_t, Shape::kMaxRank> sizes{}, a{}, b{};
};

template <class T>
struct BinaryKernels {
  void (*binary)(BinaryOp, const Broadcast&, const T* a, const T* b, T* y);
  // Gradient of operand 0 or 1 in that operand's own shape: sums over the axes along which it was repeated.
  void (*binary_backward)(BinaryOp, int operand, const Broadcast&, const T* a, const T* b, const T* dy, T* dx, Mode);
};

}  // namespace tapecache::kernels
