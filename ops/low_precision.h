#pragma once

#include "tapecache/autograd/autocast.h"
#include "tapecache/core/tensor.h"

/// How products follow `Autocast`: the one place that knows that bf16 operands are multiplied as rounded f32 ones.
namespace tapecache::ops::detail {

/// An operand of a product, and the form in which backward keeps it.
struct Operand {
  Tensor value, kept;
};

inline Operand operand_of(const Tensor& x) {
  if (autocast_dtype() != DType::kBFloat16 || x.dtype() != DType::kFloat32) return {x, x};
  const Tensor low = x.to(DType::kBFloat16);
  return {low.to(DType::kFloat32), low};
}

/// A kept operand for use in a product.
inline Tensor restored(const Tensor& kept) {
  return kept.dtype() == DType::kBFloat16 ? kept.to(DType::kFloat32) : kept;
}

/// The incoming gradient in the precision of the operand it will meet.
inline Tensor gradient_like(const Tensor& kept, const Tensor& gradient) {
  return kept.dtype() == DType::kBFloat16 ? gradient.to(DType::kBFloat16).to(DType::kFloat32) : gradient;
}

}  // namespace tapecache::ops::detail
