#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

// Each reduces one axis, which disappears; negative axes count from the end. Throws ShapeError where there is no such
// axis, or where it is empty (max, mean, logsumexp).
Variable sum(const Variable& x, int axis);
Variable mean(const Variable& x, int axis);
/// Of several maxima the first receives the gradient.
Variable(max)(const Variable& x, int axis);  // in brackets for who has a macro max
/// log Σ exp(x), without overflow
Variable logsumexp(const Variable& x, int axis);
/// The Euclidean length √Σ x², without overflow or underflow; 0 of an empty axis. The gradient of a length of 0 is 0,
/// where that of the root of a sum would be NaN.
Variable norm(const Variable& x, int axis);
/// The Euclidean distance norm(a - b, axis), the operands broadcast against each other: of a [n, 1, width] and b [m,
/// width] all n · m distances. The gradient between equal points is 0. Throws as subtract and norm do.
Variable distance(const Variable& a, const Variable& b, int axis = -1);

/// Sum of all elements, a scalar.
Variable sum(const Variable& x);
/// Mean of all elements, a scalar.
Variable mean(const Variable& x);

// Tokens [batch, tokens, width] to [batch, width]. `valid` is bool [batch, tokens] (false marks padding) or undefined;
// a sample with no valid token gets 0. Each throws ShapeError.
Variable mean_pool(const Variable& x, const Tensor& valid = {});
/// Of several maxima the first receives the gradient.
Variable max_pool(const Variable& x, const Tensor& valid = {});
/// The first valid token of each sample. Throws ValueError naming a sample that has none.
Variable cls_pool(const Variable& x, const Tensor& valid = {});
/// The last valid token of each sample. Throws ValueError naming a sample that has none.
Variable last_token_pool(const Variable& x, const Tensor& valid = {});
/// Token index[i] of sample i, index [batch] (i32 or i64, on x's device or the host). Throws ValueError naming the
/// first index out of range.
Variable select_token(const Variable& x, const Tensor& index);

enum class Reduction { kNone, kMean, kSum };

/// -log softmax(logits)[target] for logits [rows, classes] and targets [rows] (i32 or i64, on the logits' device or the
/// host): [rows] with kNone, else a scalar. Throws ShapeError, and ValueError naming the first target that is no class.
Variable cross_entropy(const Variable& logits, const Tensor& targets, Reduction reduction = Reduction::kMean);

}  // namespace tapecache::ops
