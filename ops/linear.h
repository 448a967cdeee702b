#pragma once

#include <span>

#include "tapecache/autograd/variable.h"
#include "tapecache/ops/elementwise.h"

/// Products with a weight [out, in] and perhaps a bias [out], for x [..., in]. Each throws ShapeError where shapes do not
/// fit and DTypeError where types differ.
namespace tapecache::ops {

/// x · weightᵀ + bias + residual, of shape [..., out]; bias and residual may be undefined. The residual is where the
/// product begins, so that adding it costs no pass over memory.
Variable linear(const Variable& x, const Variable& weight, const Variable& bias = {}, const Variable& residual = {});

/// The same of activation(x). Backward keeps x and computes activation(x) again: one tensor less than the two ops keep.
Variable activated_linear(const Variable& x, Activation activation, const Variable& weight, const Variable& bias = {},
                          const Variable& residual = {});

/// Several linear maps of one x, their outputs side by side: [..., Σ out_i]. `biases` is empty, or holds one for each
/// weight, of which any may be undefined. Throws ValueError for no weight, more than 8, or another number of biases.
Variable joined_linear(const Variable& x, std::span<const Variable> weights, std::span<const Variable> biases = {});

/// What layer_norm is given besides x.
struct Norm {
  Variable weight, bias;
  double epsilon = 1e-5;
};

struct NormalizedLinear {
  Variable y;           ///< joined_linear of the norm
  Variable normalized;  ///< the norm itself, for what else reads it
};

/// joined_linear of layer_norm(x). Backward keeps x and computes its norm again: one tensor less than the two ops keep.
NormalizedLinear normalized_linear(const Variable& x, const Norm& norm, std::span<const Variable> weights,
                                   std::span<const Variable> biases = {});

}  // namespace tapecache::ops
