#pragma once

#include <cmath>

#include "tapecache/ops/kernels/unary.h"

/// The functions of UnaryOp and their derivatives, which take the output or the input by derivative_uses_output.
namespace tapecache::kernels::cuda {

/// What is asked of a function's values: all that T holds, or as much as is left of them in 16 bits.
enum class Precision { kFull, kOf16Bits };

template <class T>
struct Scale {
  T a, b;
  __device__ T value(T x) const { return a * x; }
  __device__ T derivative(T) const { return a; }
};

template <class T>
struct Exp {
  T a, b;
  __device__ T value(T x) const { return std::exp(x); }
  __device__ T derivative(T y) const { return y; }
};

template <class T>
struct Log {
  T a, b;
  __device__ T value(T x) const { return std::log(x); }
  __device__ T derivative(T x) const { return T{1} / x; }
  __device__ T chain(T x, T g) const { return g / x; }  // 1 / x of a subnormal x is infinite
};

template <class T>
struct Sqrt {
  T a, b;
  __device__ T value(T x) const { return std::sqrt(x); }
  __device__ T derivative(T y) const { return T(0.5) / y; }
};

template <class T>
struct Rsqrt {
  T a, b;
  __device__ T value(T x) const { return T{1} / std::sqrt(x); }
  __device__ T derivative(T y) const { return T(-0.5) * y * y * y; }
};

template <class T>
struct Pow {
  T a, b;
  __device__ T value(T x) const { return std::pow(x, a); }
  __device__ T derivative(T x) const { return a == 0 ? T{0} : a * std::pow(x, a - 1); }
};

template <class T>
struct Tanh {
  T a, b;
  __device__ T value(T x) const { return std::tanh(x); }
  __device__ T derivative(T y) const { return T{1} - y * y; }
};

template <class T>
struct Erf {
  T a, b;
  __device__ T value(T x) const { return std::erf(x); }
  __device__ T derivative(T x) const { return T(1.12837916709551257390) * std::exp(-x * x); }  // 2 / √π
};

template <Precision precision = Precision::kFull, class T>
__device__ T logistic(T x) {
  if constexpr (precision == Precision::kOf16Bits) return __fdividef(1.0f, 1.0f + __expf(-x));
  else return T{1} / (T{1} + std::exp(-x));
}

/// x, or 0 where that is so far off that what it is multiplied by is 0, which infinity times would not be.
template <class T>
__device__ T near(T x) {
  return std::fabs(x) < T{1000} ? x : T{0};
}

template <class T>
struct Sigmoid {
  T a, b;
  __device__ T value(T x) const { return logistic(x); }
  __device__ T derivative(T y) const { return y * (T{1} - y); }
};

template <class T>
struct Relu {
  T a, b;
  __device__ T value(T x) const { return x < T{0} ? T{0} : x; }
  __device__ T derivative(T x) const { return chain(x, T{1}); }
  __device__ T chain(T x, T g) const { return x <= T{0} ? T{0} : g; }
};

template <class T>
struct Gelu {
  T a, b;
  /// By erfc, as ½ + ½ erf would cancel for negative x. What rounding its argument leaves out, x² 2⁻²⁴ of the result,
  /// is made good by the derivative.
  __device__ static T cumulative(T x) {
    constexpr double kFactor = -0.70710678118654752440;
    const T y = x * T(kFactor), z = near(x);
    const T rest = std::fma(z, T(kFactor), -(z * T(kFactor))) + z * T(kFactor - static_cast<double>(T(kFactor)));
    return T(0.5) * (std::erfc(y) - rest * T(1.12837916709551257390) * std::exp(-y * y));
  }
  __device__ T value(T x) const { return x * cumulative(x); }
  __device__ T derivative(T x) const {  // Φ(x) + x φ(x)
    return cumulative(x) + near(x) * T(0.39894228040143267794) * std::exp(T(-0.5) * x * x);
  }
};

template <class T, Precision precision>
struct GeluTanh {
  T a, b;
  static constexpr double kCubic = 0.044715, kTwiceSqrt2OverPi = 2 * 0.79788456080286535588;
  /// ½ (1 + tanh u) is σ(2u).
  __device__ static T cumulative(T x) {
    return logistic<precision>(T(kTwiceSqrt2OverPi) * (x + T(kCubic) * x * x * x));
  }
  __device__ T value(T x) const { return x * cumulative(x); }
  __device__ T derivative(T x) const {
    const T s = cumulative(x), z = near(x), inner = T(kTwiceSqrt2OverPi) * (T{1} + T(3 * kCubic) * z * z);
    return s + z * s * (T{1} - s) * inner;
  }
};

template <class T, Precision precision>
struct QuickGelu {
  T a, b;
  static constexpr double kSteepness = 1.702;
  __device__ T value(T x) const { return x * logistic<precision>(T(kSteepness) * x); }
  __device__ T derivative(T x) const {  // σ + 1.702 x σ (1 - σ)
    const T s = logistic<precision>(T(kSteepness) * x);
    return s + T(kSteepness) * near(x) * s * (T{1} - s);
  }
};

template <class T, Precision precision>
struct Silu {
  T a, b;
  __device__ T value(T x) const { return x * logistic<precision>(x); }
  __device__ T derivative(T x) const {  // σ + x σ (1 - σ)
    const T s = logistic<precision>(x);
    return s + near(x) * s * (T{1} - s);
  }
};

template <class T>
struct Softplus {
  T a, b;
  __device__ T value(T x) const { return (x < T{0} ? T{0} : x) + std::log1p(std::exp(-std::fabs(x))); }
  __device__ T derivative(T x) const { return logistic(x); }
};

template <class T>
struct Clamp {
  T a, b;
  __device__ T value(T x) const { return x < a ? a : (x > b ? b : x); }
  __device__ T derivative(T x) const { return chain(x, T{1}); }
  __device__ T chain(T x, T g) const { return x >= a && x <= b ? g : T{0}; }
};

/// g f'(x), or of the value, as derivative_uses_output says; by `chain` where a product would not do: 0 times an
/// infinite g is NaN.
template <class Function, class T>
__device__ T chain(const Function& function, T at, T g) {
  if constexpr (requires { function.chain(at, g); }) return function.chain(at, g);
  else return g * function.derivative(at);
}

/// Calls `f` with the function, to be passed to a kernel.
template <class T, Precision precision = Precision::kFull, class F>
void with_function(UnaryOp op, T a, T b, const F& f) {
  switch (op) {
    case UnaryOp::kScale:
      return f(Scale<T>{a, b});
    case UnaryOp::kExp:
      return f(Exp<T>{a, b});
    case UnaryOp::kLog:
      return f(Log<T>{a, b});
    case UnaryOp::kSqrt:
      return f(Sqrt<T>{a, b});
    case UnaryOp::kRsqrt:
      return f(Rsqrt<T>{a, b});
    case UnaryOp::kPow:
      return f(Pow<T>{a, b});
    case UnaryOp::kTanh:
      return f(Tanh<T>{a, b});
    case UnaryOp::kErf:
      return f(Erf<T>{a, b});
    case UnaryOp::kSigmoid:
      return f(Sigmoid<T>{a, b});
    case UnaryOp::kRelu:
      return f(Relu<T>{a, b});
    case UnaryOp::kGelu:
      return f(Gelu<T>{a, b});
    case UnaryOp::kGeluTanh:
      return f(GeluTanh<T, precision>{a, b});
    case UnaryOp::kQuickGelu:
      return f(QuickGelu<T, precision>{a, b});
    case UnaryOp::kSilu:
      return f(Silu<T, precision>{a, b});
    case UnaryOp::kSoftplus:
      return f(Softplus<T>{a, b});
    case UnaryOp::kClamp:
      return f(Clamp<T>{a, b});
  }
}

}  // namespace tapecache::kernels::cuda
