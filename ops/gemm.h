#pragma once

#include "tapecache/core/element.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/low_precision.h"

#pragma GCC visibility push(hidden)

/// The steps from tensors to kernels that ops with products share.
namespace tapecache::ops::detail {

/// c = op(a) op(b) + bias + residual, or += without a residual. Bias and residual may be undefined; there is no
/// residual where c is of 16 bits, as a and b then are.
inline void gemm(const char* op, const kernels::Gemm& shape, const Tensor& a, const Tensor& b, const Tensor& bias,
                 const Tensor& residual, Tensor& c, kernels::Mode mode) {
  dispatch_any_floating(op, a.dtype(), [&]<class In>() {
    using Kernels = kernels::GemmKernels<In>;
    if constexpr (kLowPrecision<In>) {
      if (c.dtype() == a.dtype()) return call(op, a.device(), &Kernels::gemm_rounded, shape, a, b, bias, c, mode);
    }
    call(op, a.device(), &Kernels::gemm, shape, a, b, bias, residual, c, mode);
  });
}

/// The gradient of a bias: the sum over all rows of dy, which begin `pitch` elements apart.
inline void bias_gradient(const char* op, const Tensor& dy, std::int64_t rows, std::int64_t pitch, GradientTarget db) {
  dispatch_any_floating(op, dy.dtype(), [&]<class In>() {
    call(op, dy.device(), &kernels::ReduceKernels<In>::sum_rows, rows, db.tensor.numel(), pitch, dy, db, db);
  });
}

/// The place of an input's gradient, where it wants one.
inline GradientTarget wanted(Backward& ctx, std::size_t input) {
  return ctx.needs(input) ? ctx.gradient(input) : GradientTarget();
}

struct GradientInType {
  Tensor dy;
  bool bias_done;  // the gradient of the bias is made
};

/// dY [rows, cols] in the type of the operands. Where it must be rounded for that, the gradient of the input `bias`, if
/// that is wanted, is made in the same pass.
inline GradientInType gradient_in_type(const char* op, Backward& ctx, std::size_t bias, const Tensor& dy,
                                       DType operand) {
  const bool sums = ctx.needs(bias) && ctx.input_shape(bias).numel() > 0;
  if (!sums || !is_low_precision(operand) || dy.dtype() != DType::kFloat32) return {in_type(op, dy, operand), false};
  Tensor low_dy = Tensor::empty(dy.shape(), operand, dy.device());
  GradientTarget db = ctx.gradient(bias);
  dispatch_low_precision(op, operand, [&]<class Low>() {
    const std::int64_t cols = db.tensor.numel();
    call(op, dy.device(), &kernels::ReduceKernels<Low>::round_and_sum_rows, dy.numel() / cols, cols, dy, low_dy, db,
         db);
  });
  return {low_dy, true};
}

/// dW = dYᵀ X, `shape` being its product, and db = Σ_rows dY, for those of both that have a target. `low_dy` is dy in
/// the type of x.
inline void parameter_gradients(const char* op, const kernels::Gemm& shape, const Tensor& dy, const Tensor& low_dy,
                                const Tensor& x, GradientTarget dw, GradientTarget db) {
  if (dw.tensor.defined() && db.tensor.defined() && is_low_precision(dy.dtype())) {
    return dispatch_low_precision(op, dy.dtype(), [&]<class Low>() {
      call(op, dy.device(), &kernels::GemmKernels<Low>::parameter_gradients, shape, dy, x, dw, dw, db, db);
    });
  }
  if (dw.tensor.defined()) gemm(op, shape, low_dy, x, {}, {}, dw.tensor, mode_of(dw));
  if (db.tensor.defined()) bias_gradient(op, dy, shape.k, shape.row_stride_a(), db);
}

}  // namespace tapecache::ops::detail

#pragma GCC visibility pop
