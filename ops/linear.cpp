#include "tapecache/ops/linear.h"

#include <fmt/format.h>

#include "tapecache/core/element.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/gemm.h"
#include "tapecache/ops/low_precision.h"
#include "tapecache/ops/packed_weight.h"

namespace tapecache::ops {

using kernels::Activated;
using kernels::GateKernels;
using kernels::Gemm;
using kernels::GemmKernels;
using kernels::Mode;
using kernels::UnaryKernels;
using kernels::UnaryOp;

namespace {

UnaryOp kernel_of(Activation activation) {
  switch (activation) {
    case Activation::kQuickGelu:
      return UnaryOp::kQuickGelu;
    case Activation::kGelu:
      return UnaryOp::kGelu;
    case Activation::kGeluTanh:
      return UnaryOp::kGeluTanh;
    case Activation::kSilu:
      return UnaryOp::kSilu;
    case Activation::kRelu:
      return UnaryOp::kRelu;
  }
  throw ValueError("activation: unknown");
}

void check_linear(const char* op, const Variable& x, const Variable& weight, const Variable& bias,
                  const Variable& residual) {
  detail::require_operand(op, "x", x, 1);
  detail::require_weight(op, x, weight, bias);
  if (residual.defined()) {
    detail::require_alike(op, "x", x, "residual", residual);
    detail::require_shape(op, "residual", residual.shape(), x.shape().with(-1, weight.size(0)));
  }
}

}  // namespace

Variable linear(const Variable& x, const Variable& weight, const Variable& bias, const Variable& residual,
                ResultType result) {
  constexpr const char* kOp = "linear";
  const OpScope scope(kOp);
  check_linear(kOp, x, weight, bias, residual);
  const std::int64_t rows = detail::rows_of(x.shape()), in = x.size(-1), out = weight.size(0);
  const DType operand = detail::operand_type(x.value());
  if (residual.defined()) result = ResultType::kComputed;
  Tensor y = Tensor::empty(x.shape().with(-1, out), detail::result_type(operand, result), x.device());
  const Tensor input = detail::in_type(kOp, x.value(), operand), w = detail::weight_in_type(kOp, weight, operand);
  Gemm product{1, rows, out, in, false, true};
  const Tensor factor = detail::packed_weight(kOp, w, weight.is_present_value(), product);
  detail::gemm(kOp, product, input, factor, bias.value(), residual.value(), y, Mode::kWrite);
  return record(kOp, std::move(y), {x, weight, bias, residual}, {input, w}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    const auto [low_dy, bias_done] = detail::gradient_in_type(kOp, ctx, 2, dy, operand);
    if (ctx.needs(0)) {  // dX = dY W
      GradientTarget dx = ctx.gradient(0);
      Gemm back{1, rows, in, out, false, false};
      const Tensor saved_w = detail::packed_weight(kOp, ctx.saved(1), false, back);
      detail::gemm(kOp, back, low_dy, saved_w, {}, {}, dx.tensor, detail::mode_of(dx));
    }
    // dW = dYᵀ X; db = Σ_rows dY. The gradient of the bias is asked for only now, since the bias may be x itself.
    GradientTarget db = bias_done ? GradientTarget() : detail::wanted(ctx, 2);
    detail::parameter_gradients(kOp, {1, out, in, rows, true, false}, dy, low_dy, ctx.saved(0), detail::wanted(ctx, 1),
                                db);
    if (ctx.needs(3)) ctx.pass(3, dy);  // dR = dY
  });
}

namespace {

/// Returns activation(x) for x of 16 bits.
Tensor activated(const char* op, UnaryOp kind, const Tensor& x) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_low_precision(op, x.dtype(), [&]<class Low>() {
    detail::call(op, x.device(), &UnaryKernels<Low>::unary, kind, x.numel(), x, y);
  });
  return y;
}

/// Computes dx = dy f'(x). dy and dx have one type, which is that of x or the type that x is computed with; they may be
/// the same memory.
void activation_gradient(const char* op, UnaryOp kind, const Tensor& x, const Tensor& dy, GradientTarget& dx) {
  const Mode mode = detail::mode_of(dx);
  dispatch_any_floating(op, x.dtype(), [&]<class In>() {
    using Kernels = kernels::UnaryKernels<In>;
    if constexpr (!kLowPrecision<In>) {
      detail::call(op, dy.device(), &Kernels::unary_backward, kind, 0, 0, dy.numel(), x, dy, dx, mode);
    } else if (dy.dtype() == x.dtype()) {
      detail::call(op, dy.device(), &Kernels::unary_backward, kind, dy.numel(), x, dy, dx, mode);
    } else {
      detail::call(op, dy.device(), &Kernels::unary_backward_to_f32, kind, dy.numel(), x, dy, dx, mode);
    }
  });
}

/// Computes c = a b f'(at) and, unless `value` is undefined, value = f(at). All tensors are of 16 bits; `shape` says
/// which of a and b are transposed.
void derivative_gemm(const char* op, const Gemm& shape, UnaryOp kind, const Tensor& a, const Tensor& b,
                     const Tensor& at, Tensor& c, Tensor& value) {
  dispatch_low_precision(op, a.dtype(), [&]<class Low>() {
    detail::call(op, a.device(), &GemmKernels<Low>::derivative_gemm, shape, kind, a, b, at, c, value);
  });
}

/// Computes a product of f32 or f64 in one pass with the activation of a factor or with its derivative; `place` says
/// which.
void joined_gemm(const char* op, const Gemm& shape, UnaryOp kind, Activated place, const Tensor& a, const Tensor& b,
                 const Tensor& bias, const Tensor& residual, const Tensor& at, Tensor& c, Mode mode) {
  dispatch_floating(op, a.dtype(), [&]<class T>() {
    detail::call(op, a.device(), &GemmKernels<T>::activated_gemm, shape, kind, place, a, b, bias, residual, at, c,
                 mode);
  });
}

}  // namespace

Variable activated_linear(const Variable& x, Activation activation, const Variable& weight, const Variable& bias,
                          const Variable& residual) {
  constexpr const char* kOp = "activated_linear";
  const OpScope scope(kOp);
  check_linear(kOp, x, weight, bias, residual);
  const UnaryOp kind = kernel_of(activation);
  const std::int64_t rows = detail::rows_of(x.shape()), in = x.size(-1), out = weight.size(0);
  const DType operand = detail::operand_type(x.value());
  const bool low = is_low_precision(operand);
  Tensor y = Tensor::empty(x.shape().with(-1, out), detail::computed_type(operand), x.device());
  const Tensor input = detail::in_type(kOp, x.value(), operand), w = detail::weight_in_type(kOp, weight, operand);
  Gemm product{1, rows, out, in, false, true};
  const Tensor factor = detail::packed_weight(kOp, w, weight.is_present_value(), product);
  if (low) {
    detail::gemm(kOp, product, activated(kOp, kind, input), factor, bias.value(), residual.value(), y, Mode::kWrite);
  } else {
    joined_gemm(kOp, product, kind, Activated::kLeft, input, factor, bias.value(), residual.value(), {}, y,
                Mode::kWrite);
  }
  return record(kOp, std::move(y), {x, weight, bias, residual}, {input, w}, [=](Backward& ctx) {
    const Tensor &dy = ctx.output_gradient(), &z = ctx.saved(0);
    const auto [low_dy, bias_done] = detail::gradient_in_type(kOp, ctx, 2, dy, operand);
    Tensor f_of_x;       // f(X) for dW, if computing dX gave it too
    if (ctx.needs(0)) {  // dX = (dY W) f'(X)
      GradientTarget dx = ctx.gradient(0);
      Gemm back{1, rows, in, out, false, false};
      const Tensor saved_w = detail::packed_weight(kOp, ctx.saved(1), false, back);
      if (!low && !dx.accumulate) {
        joined_gemm(kOp, back, kind, Activated::kDerivative, dy, saved_w, {}, {}, z, dx.tensor, Mode::kWrite);
      } else if (dx.tensor.dtype() == operand && !dx.accumulate) {
        if (ctx.needs(1)) f_of_x = Tensor::empty(z.shape(), operand, z.device());
        derivative_gemm(kOp, back, kind, low_dy, saved_w, z, dx.tensor, f_of_x);
      } else {
        Tensor dhidden =
            dx.accumulate ? Tensor::empty(dx.tensor.shape(), dx.tensor.dtype(), dx.tensor.device()) : dx.tensor;
        detail::gemm(kOp, back, low_dy, saved_w, {}, {}, dhidden, Mode::kWrite);
        activation_gradient(kOp, kind, z, dhidden, dx);
      }
    }
    if (ctx.needs(1)) {  // dW = dYᵀ f(X)
      GradientTarget dw = ctx.gradient(1);
      const Gemm of_weight{1, out, in, rows, true, false};
      if (low) {
        if (!f_of_x.defined()) f_of_x = activated(kOp, kind, z);
        detail::gemm(kOp, of_weight, low_dy, f_of_x, {}, {}, dw.tensor, detail::mode_of(dw));
      } else {
        joined_gemm(kOp, of_weight, kind, Activated::kRight, dy, z, {}, {}, {}, dw.tensor, detail::mode_of(dw));
      }
    }
    if (ctx.needs(2) && !bias_done) detail::bias_gradient(kOp, dy, rows, out, ctx.gradient(2));  // db = Σ_rows dY
    if (ctx.needs(3)) ctx.pass(3, dy);                                                           // dR = dY
  });
}

Variable gated(Activation activation, const Variable& x) {
  constexpr const char* kOp = "gated";
  const OpScope scope(kOp);
  detail::require_operand(kOp, "x", x, 1);
  if (x.size(-1) % 2 != 0) {
    throw ShapeError(fmt::format("{}: x has shape {}, expected an even last axis", kOp, to_string(x.shape())));
  }
  const UnaryOp kind = kernel_of(activation);
  const DType dtype = x.dtype();
  const std::int64_t rows = detail::rows_of(x.shape()), width = x.size(-1) / 2;
  Tensor y = Tensor::empty(x.shape().with(-1, width), dtype, x.device());
  dispatch_any_floating(
      kOp, dtype, [&]<class T>() { detail::call(kOp, x.device(), &GateKernels<T>::gate, kind, rows, width, x, y); });
  return record(kOp, std::move(y), {x}, {x.value()}, [=](Backward& ctx) {
    // da = dy b f'(a); db = dy f(a)
    const Tensor dy = detail::in_type(kOp, ctx.output_gradient(), dtype);
    detail::write_gradient(ctx.gradient(0), dtype, [&](Tensor& dx, Mode mode) {
      dispatch_any_floating(kOp, dtype, [&]<class T>() {
        detail::call(kOp, dy.device(), &GateKernels<T>::gate_backward, kind, rows, width, ctx.saved(0), dy, dx, mode);
      });
    });
  });
}

}  // namespace tapecache::ops
