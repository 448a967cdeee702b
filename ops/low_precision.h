#pragma once

#include "tapecache/autograd/autocast.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels.h"

/// How products follow `Autocast`.
namespace tapecache::ops::detail {

/// f(x) of an f32 tensor, rounded to bf16.
inline Tensor rounded(const char* op, kernels::UnaryOp f, const Tensor& x, double a = 0) {
  Tensor y = Tensor::empty(x.shape(), DType::kBFloat16, x.device());
  kernels::find(&kernels::KernelTable<float>::unary_bf16, op, x.device())(f, a, 0, x.numel(), x.data<float>(),
                                                                         y.mutable_data<BFloat16>());
  return y;
}

inline Tensor rounded(const char* op, const Tensor& x) { return rounded(op, kernels::UnaryOp::kScale, x, 1); }

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
