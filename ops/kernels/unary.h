#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/kernels/mode.h"

/// Element-wise functions of one argument. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// `a` and `b` are parameters of a function, which most have none of.
enum class UnaryOp {
  kScale,  // a x
  kExp,
  kLog,
  kSqrt,
  kRsqrt,  // 1 / sqrt(x)
  kPow,    // x^a
  kTanh,
  kErf,
  kSigmoid,
  kRelu,
  kGelu,       // x Φ(x), with erf
  kGeluTanh,   // 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
  kQuickGelu,  // x σ(1.702 x)
  kSilu,       // x σ(x)
  kSoftplus,   // log(1 + eˣ)
  kClamp,      // min(max(x, a), b)
};

/// Whether the derivative of a unary function is taken from its output (else from its input).
constexpr bool derivative_uses_output(UnaryOp op) {
  return op == UnaryOp::kExp || op == UnaryOp::kSqrt || op == UnaryOp::kRsqrt || op == UnaryOp::kTanh ||
         op == UnaryOp::kSigmoid;
}

template <class T>
struct UnaryKernels {
  // `saved` is the output or the input, by derivative_uses_output.
  void (*unary)(UnaryOp, double a, double b, std::int64_t n, const T* x, T* y);
  void (*unary_backward)(UnaryOp, double a, double b, std::int64_t n, const T* saved, const T* dy, T* dx, Mode);
};

/// Over bf16 and f16. Sums are taken in f32, and so is everything else before it is rounded.
template <class Low>
requires kLowPrecision<Low>
struct UnaryKernels<Low> {
  // To nearest even.
  void (*round)(std::int64_t n, const float* x, Low* y);
  // Of functions without parameters.
  void (*unary)(UnaryOp, std::int64_t n, const Low* x, Low* y);
  // dx = dy f'(x); dx may be dy.
  void (*unary_backward)(UnaryOp, std::int64_t n, const Low* x, const Low* dy, Low* dx, Mode);
  void (*unary_backward_to_f32)(UnaryOp, std::int64_t n, const Low* x, const float* dy, float* dx, Mode);
};

}  // namespace tapecache::kernels
