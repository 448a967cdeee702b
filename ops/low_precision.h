#pragma once

#include "tapecache/autograd/autocast.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels.h"
#include "tapecache/ops/result_type.h"

/// How products follow `Autocast`.
namespace tapecache::ops::detail {

/// The type that is computed with where operands are of this one: f32 for those of 16 bits.
inline DType computed_type(DType operand) { return is_low_precision(operand) ? DType::kFloat32 : operand; }

/// An f32 tensor as bf16 or f16.
inline Tensor rounded(const char* op, const Tensor& x, DType low) {
  Tensor y = Tensor::empty(x.shape(), low, x.device());
  dispatch_low_precision(op, low, [&]<class Low>() {
    kernels::find(&kernels::KernelTable<Low>::round, op, x.device())(x.numel(), x.data<float>(), y.mutable_data<Low>());
  });
  return y;
}

/// The type that a product takes x in, and backward keeps it in.
inline DType operand_type(const Tensor& x) { return x.dtype() == DType::kFloat32 ? autocast_dtype() : x.dtype(); }

/// A tensor, such as a weight or the incoming gradient, in the type of the operand that it will meet.
inline Tensor in_type(const char* op, const Tensor& x, DType operand) {
  return is_low_precision(operand) && x.dtype() == DType::kFloat32 ? rounded(op, x, operand) : x;
}

/// The type of a product's result.
inline DType result_type(DType operand, ResultType wanted) {
  return wanted == ResultType::kOperand ? operand : computed_type(operand);
}

}  // namespace tapecache::ops::detail
