#pragma once

#include <span>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::ops {

/// The type of a product's result where `Autocast` has it take operands of 16 bits.
enum class ResultType {
  kComputed,  ///< f32, in which it is added up
  kOperand,   ///< that of its operands: for results that are read by another product alone, and half the memory
};

struct MatmulOptions {
  bool transpose_a = false;  ///< a is stored [..., k, m]
  bool transpose_b = false;  ///< b is stored [..., n, k]
};

/// Matrix product [..., m, k] · [..., k, n] = [..., m, n]. The leading axes are batches: equal in both operands, or
/// absent in one, whose matrix is then used for every batch. Throws ShapeError.
Variable matmul(const Variable& a, const Variable& b, const MatmulOptions& options = {});

}  // namespace tapecache::ops

/// Linear maps of x [..., in] by a weight [out, in] and an optional bias [out]. x may be bf16 or f16, as another linear
/// map returns it with ResultType::kOperand; weights, biases and residuals are f32 then. Each throws ShapeError if
/// shapes do not fit and DTypeError if types differ.
namespace tapecache::ops {

/// Computes x · weightᵀ + bias + residual, of shape [..., out]; bias and residual may be undefined. The product
/// accumulates onto the residual, so that adding it costs no extra pass over memory; the result then has the type in
/// which it is computed.
Variable linear(const Variable& x, const Variable& weight, const Variable& bias = {}, const Variable& residual = {},
                ResultType = ResultType::kComputed);

/// The same for activation(x). Only x is saved, and backward recomputes activation(x): one tensor less than two
/// separate ops would save.
Variable activated_linear(const Variable& x, Activation activation, const Variable& weight, const Variable& bias = {},
                          const Variable& residual = {});

/// Computes activation(a) · b for x [..., 2·width], where a and b are the halves of its last axis: the hidden layer of
/// a gated perceptron (Shazeer 2020). The result has x's type, which may be bf16 or f16. Only x is saved, and backward
/// recomputes activation(a).
Variable gated(Activation activation, const Variable& x);

/// Applies several linear maps to one x and concatenates their outputs: [..., Σ out_i]. `biases` is empty or has one
/// entry for each weight, any of which may be undefined. Throws ValueError for no weight, more than 8, or a wrong
/// number of biases.
Variable multi_linear(const Variable& x, std::span<const Variable> weights, std::span<const Variable> biases = {},
                      ResultType = ResultType::kComputed);

/// The parameters of a layer_norm.
struct Norm {
  Variable weight = {}, bias = {};
  double epsilon = 1e-5;
};

struct NormalizedLinear {
  Variable y = {};           ///< multi_linear of the normalised x
  Variable normalized = {};  ///< the normalised x, if it is kept
};

/// Whether the normalised x is returned too, for other readers.
enum class KeepNorm { kNo, kYes };

/// Computes multi_linear of layer_norm(x). Only x is saved, and backward normalises it again: one tensor less than two
/// separate ops would save.
NormalizedLinear normalized_linear(const Variable& x, const Norm& norm, std::span<const Variable> weights,
                                   std::span<const Variable> biases = {}, KeepNorm = KeepNorm::kYes,
                                   ResultType = ResultType::kComputed);

}  // namespace tapecache::ops
