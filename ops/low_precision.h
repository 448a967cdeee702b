#pragma once

#include "tapecache/autograd/autocast.h"
#include "tapecache/core/tensor.h"

/// How products follow `Autocast`.
namespace tapecache::ops::detail {

/// An operand of a product in the type that the product takes, and backward keeps, it in.
inline Tensor operand_of(const Tensor& x) {
  const bool low = autocast_dtype() == DType::kBFloat16 && x.dtype() == DType::kFloat32;
  return low ? x.to(DType::kBFloat16) : x;
}

/// A tensor, mostly the incoming gradient, in the type of the operand it will meet.
inline Tensor in_type_of(const Tensor& operand, const Tensor& x) {
  return operand.dtype() == DType::kBFloat16 ? x.to(DType::kBFloat16) : x;
}

/// An operand for a kernel that takes no bf16.
inline Tensor widened(const Tensor& operand) {
  return operand.dtype() == DType::kBFloat16 ? operand.to(DType::kFloat32) : operand;
}

}  // namespace tapecache::ops::detail
