#pragma once

#include "tapecache/autograd/autocast.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels.h"

/// How products follow `Autocast`.
namespace tapecache::ops::detail {

/// An f32 tensor as bf16.
inline Tensor rounded(const char* op, const Tensor& x) {
  Tensor y = Tensor::empty(x.shape(), DType::kBFloat16, x.device());
  kernels::find(&kernels::KernelTable<float>::to_bf16, op, x.device())(x.numel(), x.data<float>(),
                                                                      y.mutable_data<BFloat16>());
  return y;
}

/// An operand of a product in the type that the product takes, and backward keeps, it in.
inline Tensor operand_of(const char* op, const Tensor& x) {
  const bool low = autocast_dtype() == DType::kBFloat16 && x.dtype() == DType::kFloat32;
  return low ? rounded(op, x) : x;
}

/// A tensor, mostly the incoming gradient, in the type of the operand it will meet.
inline Tensor in_type_of(const char* op, const Tensor& operand, const Tensor& x) {
  return operand.dtype() == DType::kBFloat16 ? rounded(op, x) : x;
}

}  // namespace tapecache::ops::detail
