#pragma once

#include <span>

#include "tapecache/autograd/variable.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/result_type.h"

/// Products with a weight [out, in] and perhaps a bias [out], for x [..., in]. x may be of 16 bits, as another product
/// leaves it with ResultType::kOperand; weights, biases and residuals are then of f32. Each throws ShapeError where
/// shapes do not fit and DTypeError where types differ.
namespace tapecache::ops {

/// x · weightᵀ + bias + residual, of shape [..., out]; bias and residual may be undefined. The residual is where the
/// product begins, so that adding it costs no pass over memory; the result is then of the type it is computed in.
Variable linear(const Variable& x, const Variable& weight, const Variable& bias = {}, const Variable& residual = {},
                ResultType = ResultType::kComputed);

/// The same of activation(x). Backward keeps x and computes activation(x) again: one tensor less than the two ops keep.
Variable activated_linear(const Variable& x, Activation activation, const Variable& weight, const Variable& bias = {},
                          const Variable& residual = {});

/// activation(a) · b of x [..., 2·width], a and b being the halves of its last axis: the hidden layer of a gated
/// perceptron (Shazeer 2020). Of x's type, which may be of 16 bits; backward keeps x and computes activation(a) again.
Variable gated(Activation activation, const Variable& x);

/// Several linear maps of one x, their outputs side by side: [..., Σ out_i]. `biases` is empty, or holds one for each
/// weight, of which any may be undefined. Throws ValueError for no weight, more than 8, or another number of biases.
Variable multi_linear(const Variable& x, std::span<const Variable> weights, std::span<const Variable> biases = {},
                      ResultType = ResultType::kComputed);

/// What layer_norm is given besides x.
struct Norm {
  Variable weight = {}, bias = {};
  double epsilon = 1e-5;
};

struct NormalizedLinear {
  Variable y = {};           ///< multi_linear of the norm
  Variable normalized = {};  ///< the norm itself, where it is kept
};

/// Whether the norm is a result too, for what else reads it.
enum class KeepNorm { kNo, kYes };

/// multi_linear of layer_norm(x). Backward keeps x and computes its norm again: one tensor less than the two ops keep.
NormalizedLinear normalized_linear(const Variable& x, const Norm& norm, std::span<const Variable> weights,
                                   std::span<const Variable> biases = {}, KeepNorm = KeepNorm::kYes,
                                   ResultType = ResultType::kComputed);

}  // namespace tapecache::ops
