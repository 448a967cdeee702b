#pragma once

#include "tapecache/autograd/tape.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

#pragma GCC visibility push(hidden)

/// The derivative that `layer_norm` and `normalized_linear` share.
namespace tapecache::ops::detail {

/// Puts dx into its target, if that has a tensor, and gives the gradients of inputs 1 (γ) and 2 (β) where wanted.
template <class T>
void layer_norm_gradient(const char* op, Backward& ctx, const Tensor& x, const Tensor& gamma, const Tensor& mean,
                         const Tensor& rstd, const Tensor& dy, GradientTarget dx) {
  // x̂ = (x - mean) rstd; g = dy γ; dx = rstd (g - mean(g) - x̂ mean(g x̂)); dγ = Σ dy x̂; dβ = Σ dy
  GradientTarget dgamma, dbeta;
  if (ctx.needs(1)) dgamma = ctx.gradient(1);
  if (ctx.needs(2)) dbeta = ctx.gradient(2);
  call(op, dy.device(), &kernels::NormalizeKernels<T>::layer_norm_backward, rows_of(x.shape()), x.size(-1), x, gamma,
       mean, rstd, dy, dx, dx, dgamma, dgamma, dbeta, dbeta);
}

}  // namespace tapecache::ops::detail

#pragma GCC visibility pop
