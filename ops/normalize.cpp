#include "tapecache/ops/normalize.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::KernelTable;

namespace {

void require_positive(const char* op, double epsilon) {
  if (!(epsilon > 0)) throw ValueError(fmt::format("{}: epsilon is {}, expected above 0", op, epsilon));
}

}  // namespace

Variable layer_norm(const Variable& x, const Variable& weight, const Variable& bias, double epsilon) {
  constexpr const char* kOp = "layer_norm";
  const OpScope scope(kOp);
  require_positive(kOp, epsilon);
  detail::require_floating(kOp, "x", x, 1);
  detail::require_alike(kOp, x, "weight", weight);
  detail::require_alike(kOp, x, "bias", bias);
  const std::int64_t rows = detail::rows_of(x.shape()), width = x.size(-1);
  if (width == 0) throw ShapeError(fmt::format("{}: the last axis of {} is empty", kOp, to_string(x.shape())));
  detail::require_shape(kOp, "weight", weight.shape(), {width});
  detail::require_shape(kOp, "bias", bias.shape(), {width});

  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor mean = Tensor::empty({rows}, x.dtype(), x.device());
  Tensor rstd = Tensor::empty({rows}, x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    kernels::find(&KernelTable<T>::layer_norm, kOp, x.device())(
        rows, width, epsilon, x.value().data<T>(), weight.value().data<T>(), bias.value().data<T>(),
        y.mutable_data<T>(), mean.mutable_data<T>(), rstd.mutable_data<T>());
  });
  return record(kOp, std::move(y), {x, weight, bias}, {x.value(), weight.value(), mean, rstd}, [=](Backward& ctx) {
    // x̂ = (x - mean) rstd; g = dy γ; dx = rstd (g - mean(g) - x̂ mean(g x̂)); dγ = Σ dy x̂; dβ = Σ dy
    const Tensor& dy = ctx.output_gradient();
    GradientTarget target[3];
    for (std::size_t i = 0; i < 3; ++i) {
      if (ctx.needs(i)) target[i] = ctx.gradient(i);
    }
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      const auto pointer = [](GradientTarget& t) { return t.tensor.defined() ? t.tensor.mutable_data<T>() : nullptr; };
      kernels::find(&KernelTable<T>::layer_norm_backward, kOp, dy.device())(
          rows, width, ctx.saved(0).data<T>(), ctx.saved(1).data<T>(), ctx.saved(2).data<T>(), ctx.saved(3).data<T>(),
          dy.data<T>(), pointer(target[0]), detail::mode_of(target[0]), pointer(target[1]), detail::mode_of(target[1]),
          pointer(target[2]), detail::mode_of(target[2]));
    });
  });
}

Variable l2_normalize(const Variable& x, double epsilon) {
  constexpr const char* kOp = "l2_normalize";
  const OpScope scope(kOp);
  require_positive(kOp, epsilon);
  detail::require_floating(kOp, "x", x, 1);
  const std::int64_t rows = detail::rows_of(x.shape()), width = x.size(-1);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor inverse = Tensor::empty({rows}, x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    kernels::find(&KernelTable<T>::l2_normalize, kOp, x.device())(rows, width, epsilon, x.value().data<T>(),
                                                                  y.mutable_data<T>(), inverse.mutable_data<T>());
  });
  return record(kOp, y, {x}, {y, inverse}, [=](Backward& ctx) {
    // dx = (dy - y Σ dy y) / ‖x‖; dy / ε where the row is shorter than ε
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      kernels::find(&KernelTable<T>::l2_normalize_backward, kOp, dy.device())(
          rows, width, ctx.saved(0).data<T>(), ctx.saved(1).data<T>(), dy.data<T>(), dx.tensor.mutable_data<T>(),
          detail::mode_of(dx));
    });
  });
}

}  // namespace tapecache::ops
