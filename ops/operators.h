#pragma once

#include "tapecache/ops/elementwise.h"

namespace tapecache {

// Shorthand for the ops of `ops/elementwise.h`, found wherever an operand is a Variable, a Parameter or a Tensor; of
// constants alone, such as two tensors, the result is a constant. A number stands for a scalar of the other operand's
// dtype and device.

namespace detail {

/// What x is an operand beside. Where x is undefined or no float the op refuses it, whatever this is.
inline Variable scalar_like(const Variable& x, double value) {
  if (!x.defined()) return Tensor();
  return Tensor::full({}, value, is_floating(x.dtype()) ? x.dtype() : DType::kFloat32, x.device());
}

}  // namespace detail

inline Variable operator-(const Variable& x) { return ops::negate(x); }

inline Variable operator+(const Variable& a, const Variable& b) { return ops::add(a, b); }
inline Variable operator-(const Variable& a, const Variable& b) { return ops::subtract(a, b); }
inline Variable operator*(const Variable& a, const Variable& b) { return ops::multiply(a, b); }
inline Variable operator/(const Variable& a, const Variable& b) { return ops::divide(a, b); }

inline Variable operator+(const Variable& a, double b) { return a + detail::scalar_like(a, b); }
inline Variable operator-(const Variable& a, double b) { return a - detail::scalar_like(a, b); }
inline Variable operator*(const Variable& a, double b) { return ops::scale(a, b); }
inline Variable operator/(const Variable& a, double b) { return a / detail::scalar_like(a, b); }

inline Variable operator+(double a, const Variable& b) { return detail::scalar_like(b, a) + b; }
inline Variable operator-(double a, const Variable& b) { return detail::scalar_like(b, a) - b; }
inline Variable operator*(double a, const Variable& b) { return ops::scale(b, a); }
inline Variable operator/(double a, const Variable& b) { return detail::scalar_like(b, a) / b; }

}  // namespace tapecache
