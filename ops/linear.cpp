#include "tapecache/ops/linear.h"

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/gemm.h"
#include "tapecache/ops/low_precision.h"

namespace tapecache::ops {

using kernels::Activated;
using kernels::Gemm;
using kernels::KernelTable;
using kernels::Mode;
using kernels::UnaryOp;

namespace {

UnaryOp kernel_of(Activation activation) {
  switch (activation) {
    case Activation::kQuickGelu: return UnaryOp::kQuickGelu;
    case Activation::kGelu: return UnaryOp::kGelu;
    case Activation::kGeluTanh: return UnaryOp::kGeluTanh;
    case Activation::kSilu: return UnaryOp::kSilu;
    case Activation::kRelu: return UnaryOp::kRelu;
  }
  throw ValueError("activated_linear: unknown activation");
}

void check_linear(const char* op, const Variable& x, const Variable& weight, const Variable& bias,
                  const Variable& residual) {
  detail::require_floating(op, "x", x, 1);
  detail::require_weight(op, x, weight, bias);
  if (residual.defined()) {
    detail::require_alike(op, x, "residual", residual);
    detail::require_shape(op, "residual", residual.shape(), x.shape().with(-1, weight.size(0)));
  }
}

}  // namespace

Variable linear(const Variable& x, const Variable& weight, const Variable& bias, const Variable& residual) {
  constexpr const char* kOp = "linear";
  const OpScope scope(kOp);
  check_linear(kOp, x, weight, bias, residual);
  const std::int64_t rows = detail::rows_of(x.shape()), in = x.size(-1), out = weight.size(0);
  Tensor y = Tensor::empty(x.shape().with(-1, out), x.dtype(), x.device());
  const Tensor input = detail::operand_of(kOp, x.value()), w = detail::operand_of(kOp, weight.value());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    detail::gemm<T>(kOp, {1, rows, out, in, false, true}, input, w, bias.value(), residual.value(), y, Mode::kWrite);
  });
  return record(kOp, std::move(y), {x, weight, bias, residual}, {input, w}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    const Tensor low_dy = detail::in_type_of(kOp, ctx.saved(0), dy);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      if (ctx.needs(0)) {  // dX = dY W
        GradientTarget dx = ctx.gradient(0);
        detail::gemm<T>(kOp, {1, rows, in, out, false, false}, low_dy, ctx.saved(1), {}, {}, dx.tensor,
                        detail::mode_of(dx));
      }
      if (ctx.needs(1)) {  // dW = dYᵀ X
        GradientTarget dw = ctx.gradient(1);
        detail::gemm<T>(kOp, {1, out, in, rows, true, false}, low_dy, ctx.saved(0), {}, {}, dw.tensor,
                        detail::mode_of(dw));
      }
      if (ctx.needs(2)) detail::sum_rows<T>(kOp, dy, ctx.gradient(2));  // db = Σ_rows dY
      if (ctx.needs(3)) ctx.pass(3, dy);                        // dR = dY
    });
  });
}

namespace {

/// activation(x) of bf16.
Tensor activated(const char* op, UnaryOp kind, const Tensor& x) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::find(&KernelTable<float>::unary_bf16, op, x.device())(kind, x.numel(), x.data<BFloat16>(),
                                                                 y.mutable_data<BFloat16>());
  return y;
}

template <class T>
void activation_gradient(const char* op, UnaryOp kind, const Tensor& x, const Tensor& dy, GradientTarget& dx) {
  T* to = dx.tensor.mutable_data<T>();
  if (x.dtype() == DType::kBFloat16) {
    kernels::find(&KernelTable<T>::unary_backward_bf16, op, dy.device())(kind, dy.numel(), x.data<BFloat16>(),
                                                                         dy.data<T>(), to, detail::mode_of(dx));
  } else {
    kernels::find(&KernelTable<T>::unary_backward, op, dy.device())(kind, 0, 0, dy.numel(), x.data<T>(), dy.data<T>(),
                                                                    to, detail::mode_of(dx));
  }
}

}  // namespace

Variable activated_linear(const Variable& x, Activation activation, const Variable& weight, const Variable& bias,
                          const Variable& residual) {
  constexpr const char* kOp = "activated_linear";
  const OpScope scope(kOp);
  check_linear(kOp, x, weight, bias, residual);
  const UnaryOp kind = kernel_of(activation);
  const std::int64_t rows = detail::rows_of(x.shape()), in = x.size(-1), out = weight.size(0);
  Tensor y = Tensor::empty(x.shape().with(-1, out), x.dtype(), x.device());
  const Tensor input = detail::operand_of(kOp, x.value()), w = detail::operand_of(kOp, weight.value());
  const bool low = w.dtype() == DType::kBFloat16;
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    const Gemm product{1, rows, out, in, false, true};
    if (low) {
      detail::gemm<T>(kOp, product, activated(kOp, kind, input), w, bias.value(), residual.value(), y, Mode::kWrite);
    } else {
      kernels::find(&KernelTable<T>::activated_gemm, kOp, x.device())(
          product, kind, Activated::kLeft, input.data<T>(), w.data<T>(), detail::data_or_null<T>(bias.value()),
          detail::data_or_null<T>(residual.value()), nullptr, y.mutable_data<T>(), Mode::kWrite);
    }
  });
  return record(kOp, std::move(y), {x, weight, bias, residual}, {input, w}, [=](Backward& ctx) {
    const Tensor &dy = ctx.output_gradient(), &z = ctx.saved(0), &saved_w = ctx.saved(1);
    const Tensor low_dy = detail::in_type_of(kOp, saved_w, dy);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      const auto fused = kernels::find(&KernelTable<T>::activated_gemm, kOp, dy.device());
      if (ctx.needs(0)) {  // dX = (dY W) f'(X)
        GradientTarget dx = ctx.gradient(0);
        const Gemm product{1, rows, in, out, false, false};
        if (!low && !dx.accumulate) {
          fused(product, kind, Activated::kDerivative, dy.data<T>(), saved_w.data<T>(), nullptr, nullptr, z.data<T>(),
                dx.tensor.mutable_data<T>(), Mode::kWrite);
        } else {
          Tensor dhidden = dx.accumulate ? Tensor::empty(dx.tensor.shape(), dy.dtype(), dy.device()) : dx.tensor;
          detail::gemm<T>(kOp, product, low_dy, saved_w, {}, {}, dhidden, Mode::kWrite);
          activation_gradient<T>(kOp, kind, z, dhidden, dx);
        }
      }
      if (ctx.needs(1)) {  // dW = dYᵀ f(X)
        GradientTarget dw = ctx.gradient(1);
        const Gemm product{1, out, in, rows, true, false};
        if (low) {
          detail::gemm<T>(kOp, product, low_dy, activated(kOp, kind, z), {}, {}, dw.tensor, detail::mode_of(dw));
        } else {
          fused(product, kind, Activated::kRight, dy.data<T>(), z.data<T>(), nullptr, nullptr, nullptr,
                dw.tensor.mutable_data<T>(), detail::mode_of(dw));
        }
      }
      if (ctx.needs(2)) detail::sum_rows<T>(kOp, dy, ctx.gradient(2));  // db = Σ_rows dY
      if (ctx.needs(3)) ctx.pass(3, dy);                        // dR = dY
    });
  });
}

}  // namespace tapecache::ops
