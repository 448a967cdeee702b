#pragma once

#include <span>
#include <vector>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/operand_cache.h"
#include "tapecache/autograd/variable.h"
#include "tapecache/core/element.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/linear.h"

#pragma GCC visibility push(hidden)

/// How products follow `Autocast`.
namespace tapecache::ops::detail {

/// The type that is computed with where operands are of this one: f32 for those of 16 bits.
inline DType computed_type(DType operand) { return is_low_precision(operand) ? DType::kFloat32 : operand; }

/// Writes an f32 tensor to one of bf16 or f16.
inline void round_to(const char* op, const Tensor& x, Tensor& y) {
  dispatch_low_precision(
      op, y.dtype(), [&]<class Low>() { call(op, x.device(), &kernels::UnaryKernels<Low>::round, x.numel(), x, y); });
}

/// An f32 tensor as bf16 or f16.
inline Tensor rounded(const char* op, const Tensor& x, DType low) {
  Tensor y = Tensor::empty(x.shape(), low, x.device());
  round_to(op, x, y);
  return y;
}

/// The type that a product takes x in, and backward keeps it in.
inline DType operand_type(const Tensor& x) { return x.dtype() == DType::kFloat32 ? Autocast::current() : x.dtype(); }

/// A tensor, such as a weight or the incoming gradient, in the type of the operand that it will meet.
inline Tensor in_type(const char* op, const Tensor& x, DType operand) {
  return is_low_precision(operand) && x.dtype() == DType::kFloat32 ? rounded(op, x, operand) : x;
}

/// Lets `write(tensor, mode)` write a gradient in the operand's type: in its place, or, where others add to it in f32,
/// beside it, from where it is put there.
template <class Write>
void write_gradient(GradientTarget target, DType operand, const Write& write) {
  if (target.tensor.dtype() == operand) {
    write(target.tensor, mode_of(target));
    return;
  }
  Tensor low = Tensor::empty(target.tensor.shape(), operand, target.tensor.device());
  write(low, kernels::Mode::kWrite);
  const Tensor wide = low.to(target.tensor.dtype());
  if (target.accumulate) target.tensor.accumulate(wide);
  else target.tensor.copy_from(wide);
}

/// What `make` makes of these variables, of the type `made`; kept where they are the present values of parameters, and
/// used again.
template <class Make>
Tensor kept_operand(std::span<const Variable> of, DType made, const Make& make) {
  OperandCache* cache = OperandCache::current();
  std::vector<Parameter> parameters;
  for (const Variable& v : of) {
    if (!v.is_present_value()) cache = nullptr;
    parameters.push_back(v.parameter());
  }
  if (!cache) return make();
  Tensor operand = cache->find(parameters, made);
  if (operand.defined()) return operand;
  operand = make();
  cache->keep(parameters, operand);
  return operand;
}

/// A weight as a product takes it.
inline Tensor weight_in_type(const char* op, const Variable& weight, DType operand) {
  const Tensor& value = weight.value();
  if (!is_low_precision(operand) || value.dtype() != DType::kFloat32) return value;
  return kept_operand({&weight, 1}, operand, [&] { return rounded(op, value, operand); });
}

/// The type of a product's result.
inline DType result_type(DType operand, ResultType wanted) {
  return wanted == ResultType::kOperand ? operand : computed_type(operand);
}

}  // namespace tapecache::ops::detail

#pragma GCC visibility pop
