#include "tapecache/ops/normalize.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
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
    detail::call(kOp, x.device(), &BatchNormKernels<T>::batch_norm, layout, epsilon, x, weight, bias, mean, variance,
                 y);
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
      detail::call(kOp, dy.device(), &BatchNormKernels<T>::batch_norm_backward, layout, epsilon, own_statistics,
                   ctx.saved(0), ctx.saved(1), ctx.saved(2), ctx.saved(3), dy, target[0], target[0], target[1],
                   target[1], target[2], target[2]);
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
    detail::call(kOp, x.device(), &BatchNormKernels<T>::channel_statistics, layout, x, mean, variance);
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
