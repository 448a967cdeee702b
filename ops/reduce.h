#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

// Each reduces one axis, which disappears; negative axes count from the end. Throws ShapeError where there is no such
// axis, or where it is empty (max, mean, logsumexp).
Variable sum(const Variable& x, int axis);
Variable mean(const Variable& x, int axis);
/// Of several maxima the first receives the gradient.
Variable (max)(const Variable& x, int axis);  // in brackets for who has a macro max
/// log Σ exp(x), without overflow
Variable logsumexp(const Variable& x, int axis);

/// Sum of all elements, a scalar.
Variable sum(const Variable& x);
/// Mean of all elements, a scalar.
Variable mean(const Variable& x);

}  // namespace tapecache::ops
