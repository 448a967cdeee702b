#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::ops {

struct MatmulOptions {
  bool transpose_a = false;  ///< a is stored [..., k, m]
  bool transpose_b = false;  ///< b is stored [..., n, k]
};

/// Matrix product [..., m, k] · [..., k, n] = [..., m, n]. The leading axes are batches: equal in both operands, or
/// absent in one, whose matrix is then used for every batch. Throws ShapeError.
Variable matmul(const Variable& a, const Variable& b, const MatmulOptions& options = {});

/// x [..., in] · weightᵀ + bias = [..., out], with weight [out, in] and bias [out] or undefined. Throws ShapeError.
Variable linear(const Variable& x, const Variable& weight, const Variable& bias = {});

/// The same of activation(x). Backward keeps x and computes activation(x) again: one tensor less than the two ops keep.
Variable activated_linear(const Variable& x, Activation activation, const Variable& weight, const Variable& bias = {});

}  // namespace tapecache::ops
