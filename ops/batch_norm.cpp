#include "tapecache/ops/batch_norm.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::BatchNormKernels;
using kernels::Channels;

namespace {

constexpr const char* kOp = "batch_norm";

Channels checked_channels(const Variable& x, const Variable& weight, const Variable& bias, double epsilon) {
  detail::require_floating(kOp, "x", x, 2);
  detail::require_epsilon(kOp, epsilon, x.dtype());
  detail::require_alike(kOp, "x", x, "weight", weight);
  detail::require_alike(kOp, "x", x, "bias", bias);
  const Channels layout{x.size(0), x.size(1), x.shape().product(2, x.rank())};
  if (layout.count == 0) throw ShapeError(fmt::format("{}: axis 1 of {} is empty", kOp, to_string(x.shape())));
  detail::require_shape(kOp, "weight", weight.shape(), {layout.count});
  detail::require_shape(kOp, "bias", bias.shape(), {layout.count});
  return layout;
}

Variable normalized(const Channels& layout, const Variable& x, const Variable& weight, const Variable& bias,
                    const Tensor& mean, const Tensor& variance, double epsilon, bool own_statistics) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    kernels::find(&BatchNormKernels<T>::batch_norm, kOp, x.device())(
        layout, epsilon, x.value().data<T>(), weight.value().data<T>(), bias.value().data<T>(), mean.data<T>(),
        variance.data<T>(), y.mutable_data<T>());
  });
  return record(kOp, std::move(y), {x, weight, bias}, {x.value(), weight.value(), mean, variance}, [=](Backward& ctx) {
    // x̂ = (x - mean) rstd; dγ = Σ dy x̂; dβ = Σ dy; dx = γ rstd (dy - mean(dy) - x̂ mean(dy x̂)), or γ rstd dy where
    // the statistics are constants
    const Tensor& dy = ctx.output_gradient();
    GradientTarget target[3];
    for (std::size_t i = 0; i < 3; ++i) {
      if (ctx.needs(i)) target[i] = ctx.gradient(i);
    }
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      const auto pointer = [](GradientTarget& t) { return t.tensor.defined() ? t.tensor.mutable_data<T>() : nullptr; };
      kernels::find(&BatchNormKernels<T>::batch_norm_backward, kOp, dy.device())(
          layout, epsilon, own_statistics, ctx.saved(0).data<T>(), ctx.saved(1).data<T>(), ctx.saved(2).data<T>(),
          ctx.saved(3).data<T>(), dy.data<T>(), pointer(target[0]), detail::mode_of(target[0]), pointer(target[1]),
          detail::mode_of(target[1]), pointer(target[2]), detail::mode_of(target[2]));
    });
  });
}

}  // namespace

BatchNormalized batch_norm(const Variable& x, const Variable& weight, const Variable& bias, double epsilon) {
  const OpScope scope(kOp);
  const Channels layout = checked_channels(x, weight, bias, epsilon);
  if (layout.outer * layout.inner < 2) {
    throw ShapeError(fmt::format("{}: x has shape {}, {} values a channel, expected at least 2 to take statistics of",
                                 kOp, to_string(x.shape()), layout.outer * layout.inner));
  }
  Tensor mean = Tensor::empty({layout.count}, x.dtype(), x.device());
  Tensor variance = Tensor::empty({layout.count}, x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    kernels::find(&BatchNormKernels<T>::channel_statistics, kOp, x.device())(
        layout, x.value().data<T>(), mean.mutable_data<T>(), variance.mutable_data<T>());
  });
  return {normalized(layout, x, weight, bias, mean, variance, epsilon, true), mean, variance};
}

Variable batch_norm(const Variable& x, const Variable& weight, const Variable& bias, const Tensor& mean,
                    const Tensor& variance, double epsilon) {
  const OpScope scope(kOp);
  const Channels layout = checked_channels(x, weight, bias, epsilon);
  for (const auto& [name, statistic] : {std::pair("mean", &mean), std::pair("variance", &variance)}) {
    detail::require_alike(kOp, "x", x, name, statistic->defined() ? Variable(*statistic) : Variable());
    detail::require_shape(kOp, name, statistic->shape(), {layout.count});
  }
  return normalized(layout, x, weight, bias, mean, variance, epsilon, false);
}

}  // namespace tapecache::ops
