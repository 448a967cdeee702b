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

}  // namespace tapecache::ops
