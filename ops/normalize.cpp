#include "tapecache/ops/normalize.h"

#include <vector>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/layer_norm_gradient.h"

namespace tapecache::ops {

using kernels::NormalizeKernels;

Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias, double epsilon,
                    const Variable& residual) {
  constexpr const char* kOp = "layer_norm";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "x", x, 1);
  detail::require_norm(kOp, x, weight, bias, epsilon);
  if (residual.defined()) {
    detail::require_alike(kOp, "x", x, "residual", residual);
    detail::require_shape(kOp, "residual", residual.shape(), x.shape());
  }
  const std::int64_t rows = detail::rows_of(x.shape()), width = x.size(-1);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor sum = residual.defined() ? Tensor::empty(x.shape(), x.dtype(), x.device()) : x.value();
  Tensor mean = Tensor::empty({rows}, x.dtype(), x.device());
  Tensor rstd = Tensor::empty({rows}, x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    detail::call(kOp, x.device(), &NormalizeKernels<T>::layer_norm, rows, width, epsilon, x, residual, weight, bias,
                 residual.defined() ? sum.mutable_data<T>() : nullptr, y, mean, rstd);
  });
  const std::vector<Tensor> saved{sum, weight.value(), mean, rstd};
  return record(kOp, std::move(y), {x, weight, bias, residual}, saved, [](Backward& ctx) {
    const Tensor &dy = ctx.output_gradient(), &input = ctx.saved(0);
    // x and the residual have one gradient.
    const bool shared = ctx.needs(3);
    GradientTarget dx;
    if (shared) dx.tensor = Tensor::empty(input.shape(), input.dtype(), input.device());
    else if (ctx.needs(0)) dx = ctx.gradient(0);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      detail::layer_norm_gradient<T>(kOp, ctx, input, ctx.saved(1), ctx.saved(2), ctx.saved(3), dy, dx);
    });
    if (shared && ctx.needs(0)) ctx.pass(0, dx.tensor);
    if (shared) ctx.pass(3, dx.tensor);
  });
}

Variable rms_norm(const Variable& x, const Variable& weight, double epsilon) {
  constexpr const char* kOp = "rms_norm";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "x", x, 1);
  detail::require_epsilon(kOp, epsilon, x.dtype());
  detail::require_norm_weight(kOp, x, "weight", weight);
  const std::int64_t rows = detail::rows_of(x.shape()), width = x.size(-1);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor factor = Tensor::empty({rows}, x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    detail::call(kOp, x.device(), &NormalizeKernels<T>::rms_norm, rows, width, epsilon, x, weight, y, factor);
  });
  const std::vector<Tensor> saved{x.value(), weight.value(), factor};
  return record(kOp, std::move(y), {x, weight}, saved, [=](Backward& ctx) {
    // f = 1 / √(mean(x²) + ε); g = dy γ; dx = f (g - x f mean(g x f)); dγ = Σ dy x f
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx, dgamma;
    if (ctx.needs(0)) dx = ctx.gradient(0);
    if (ctx.needs(1)) dgamma = ctx.gradient(1);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      detail::call(kOp, dy.device(), &NormalizeKernels<T>::rms_norm_backward, rows, width, ctx.saved(0), ctx.saved(1),
                   ctx.saved(2), dy, dx, dx, dgamma, dgamma);
    });
  });
}

Variable l2_normalize(const Variable& x, double epsilon) {
  constexpr const char* kOp = "l2_normalize";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "x", x, 1);
  detail::require_epsilon(kOp, epsilon, x.dtype());
  const std::int64_t rows = detail::rows_of(x.shape()), width = x.size(-1);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor inverse = Tensor::empty({rows}, x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    detail::call(kOp, x.device(), &NormalizeKernels<T>::l2_normalize, rows, width, epsilon, x, y, inverse);
  });
  return record(kOp, y, {x}, {y, inverse}, [=](Backward& ctx) {
    // dx = (dy - y Σ dy y) / ‖x‖; dy / ε where the row is shorter than ε
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      detail::call(kOp, dy.device(), &NormalizeKernels<T>::l2_normalize_backward, rows, width, ctx.saved(0),
                   ctx.saved(1), dy, dx, dx);
    });
  });
}

}  // namespace tapecache::ops
