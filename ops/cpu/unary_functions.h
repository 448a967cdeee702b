#pragma once

#include <cmath>

#include "tapecache/ops/cpu/vector_math.h"

/// The element-wise functions of UnaryOp, each with its derivative beside it as a function of x or of the value y, by
/// derivative_uses_output.

// Functions stand a line each, as in a table.
// clang-format off

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT::unary_functions {

using vector_math::all;
using vector_math::by_element;

inline constexpr double kInverseSqrt2 = 0.70710678118654752440;
inline constexpr double kInverseSqrt2Pi = 0.39894228040143267794;
inline constexpr double kTwoOverSqrtPi = 1.12837916709551257390;
inline constexpr double kSqrt2OverPi = 0.79788456080286535588;
inline constexpr double kGeluCubic = 0.044715;
inline constexpr double kQuickGelu = 1.702;

/// x, or 0 where that is so far off that what it is multiplied by is 0, which infinity times would not be.
template <class V>
HWY_INLINE V near(V x) {
  return hn::IfThenElseZero(hn::Lt(hn::Abs(x), all<V>(1000)), x);
}

template <class V>
HWY_INLINE V one_minus(V x) {
  return hn::Sub(all<V>(1), x);
}

/// σ + z slope σ (1 - σ): the derivative of x σ(u) where du/dx is the slope.
template <class V>
HWY_INLINE V gated_derivative(V x, V sigma, V slope) {
  return hn::MulAdd(hn::Mul(hn::Mul(near(x), slope), sigma), one_minus(sigma), sigma);
}

struct Scale {
  double a;
  template <class V> HWY_INLINE V value(V x) const { return hn::Mul(all<V>(a), x); }
  template <class V> HWY_INLINE V derivative(V) const { return all<V>(a); }
};

struct Exp {
  template <class V> HWY_INLINE V value(V x) const { return exponential<vector_math::Subnormal::kGiven>(x); }
  template <class V> HWY_INLINE V derivative(V y) const { return y; }
};

struct Log {
  template <class V> HWY_INLINE V value(V x) const { return logarithm(x); }
  template <class V> HWY_INLINE V derivative(V x) const { return hn::Div(all<V>(1), x); }
  template <class V> HWY_INLINE V chain(V x, V g) const { return hn::Div(g, x); }  // 1 / x of a subnormal x is infinite
};

struct Sqrt {
  template <class V> HWY_INLINE V value(V x) const { return hn::Sqrt(x); }
  template <class V> HWY_INLINE V derivative(V y) const { return hn::Div(all<V>(0.5), y); }
};

struct Rsqrt {
  template <class V> HWY_INLINE V value(V x) const { return hn::Div(all<V>(1), hn::Sqrt(x)); }
  template <class V> HWY_INLINE V derivative(V y) const { return hn::Mul(hn::Mul(all<V>(-0.5), y), hn::Mul(y, y)); }
};

struct Pow {
  double a;
  template <class V> HWY_INLINE V value(V x) const { return power(x, a); }
  template <class V> HWY_INLINE V derivative(V x) const {
    return a == 0 ? all<V>(0) : hn::Mul(all<V>(a), power(x, a - 1));
  }

 private:
  template <class V> static HWY_INLINE V power(V x, double exponent) {
    using T = hn::TFromV<V>;
    return by_element(x, [e = static_cast<T>(exponent)](T v) { return std::pow(v, e); });
  }
};

struct Tanh {
  template <class V> HWY_INLINE V value(V x) const { return hyperbolic_tangent(x); }
  template <class V> HWY_INLINE V derivative(V y) const { return hn::NegMulAdd(y, y, all<V>(1)); }
};

struct Erf {
  template <class V> HWY_INLINE V value(V x) const { return error_function(x); }
  template <class V> HWY_INLINE V derivative(V x) const {
    return hn::Mul(all<V>(kTwoOverSqrtPi), exponential(hn::Neg(hn::Mul(x, x))));
  }
};

struct Sigmoid {
  template <class V> HWY_INLINE V value(V x) const { return logistic(x); }
  template <class V> HWY_INLINE V derivative(V y) const { return hn::Mul(y, one_minus(y)); }
};

struct Relu {
  template <class V> HWY_INLINE V value(V x) const { return hn::IfThenElse(hn::Lt(x, all<V>(0)), all<V>(0), x); }
  template <class V> HWY_INLINE V derivative(V x) const { return chain(x, all<V>(1)); }
  template <class V> HWY_INLINE V chain(V x, V g) const { return hn::IfThenZeroElse(hn::Le(x, all<V>(0)), g); }
};

/// x Φ(x), by the lower tail on either side: 1 + erf would cancel for negative x. Near 0 by the series, where half a unit of
/// 0.5 would be left of the tail.
struct Gelu {
  template <class V> HWY_INLINE V value(V x) const {
    if constexpr (vector_math::kIsFloat<V>) {
      const vector_math::LowerTail<V> tail(hn::Abs(x));
      const V p = tail.probability();
      const V far = hn::IfThenElse(hn::Gt(x, all<V>(0)), hn::Mul(x, one_minus(p)), hn::Mul(hn::Neg(tail.t), p));
      return hn::IfThenElse(is_small(x), hn::Mul(x, series(x, {0.39894228, -0.06649038, 0.009973557, -0.0011873282})), far);
    } else {
      return by_element(x, [](double v) { return 0.5 * v * std::erfc(-v * kInverseSqrt2); });
    }
  }
  /// Φ(x) + x φ(x)
  template <class V> HWY_INLINE V derivative(V x) const {
    if constexpr (vector_math::kIsFloat<V>) {
      const V below = vector_math::LowerTail<V>(hn::Abs(x)).gelu_derivative();
      const V far = hn::IfThenElse(hn::Gt(x, all<V>(0)), one_minus(below), below);
      return hn::IfThenElse(is_small(x), series(x, {0.79788456, -0.26596152, 0.059841342, -0.009498626}), far);
    } else {
      return by_element(x, [](double v) {
        const double z = std::fabs(v) < 1000 ? v : 0;
        return 0.5 * std::erfc(-v * kInverseSqrt2) + z * kInverseSqrt2Pi * std::exp(-0.5 * v * v);
      });
    }
  }

 private:
  template <class V> static HWY_INLINE auto is_small(V x) { return hn::Lt(hn::Abs(x), all<V>(0.25)); }
  /// 0.5 + c₀ x + c₁ x³ + …
  template <class V> static HWY_INLINE V series(V x, const double (&c)[4]) {
    return hn::MulAdd(x, vector_math::polynomial(hn::Mul(x, x), c[0], c[1], c[2], c[3]), all<V>(0.5));
  }
};

/// x σ(2u) with u = √(2/π) (x + 0.044715 x³), which is 0.5 x (1 + tanh u).
struct GeluTanh {
  template <class V> HWY_INLINE V value(V x) const { return hn::Mul(x, gate(x)); }
  template <class V> HWY_INLINE V derivative(V x) const {
    const V z = near(x);
    const V slope = hn::MulAdd(hn::Mul(z, z), all<V>(6 * kSqrt2OverPi * kGeluCubic), all<V>(2 * kSqrt2OverPi));
    return gated_derivative(x, gate(x), slope);
  }

 private:
  template <class V> static HWY_INLINE V gate(V x) {
    const V inner = hn::MulAdd(hn::Mul(x, x), all<V>(2 * kSqrt2OverPi * kGeluCubic), all<V>(2 * kSqrt2OverPi));
    return logistic(hn::Mul(x, inner));
  }
};

struct QuickGelu {
  template <class V> HWY_INLINE V value(V x) const { return hn::Mul(x, gate(x)); }
  template <class V> HWY_INLINE V derivative(V x) const { return gated_derivative(x, gate(x), all<V>(kQuickGelu)); }

 private:
  template <class V> static HWY_INLINE V gate(V x) { return logistic(hn::Mul(all<V>(kQuickGelu), x)); }
};

struct Silu {
  template <class V> HWY_INLINE V value(V x) const { return hn::Mul(x, logistic(x)); }
  template <class V> HWY_INLINE V derivative(V x) const { return gated_derivative(x, logistic(x), all<V>(1)); }
};

struct Softplus {
  template <class V> HWY_INLINE V value(V x) const { return softplus(x); }
  template <class V> HWY_INLINE V derivative(V x) const { return logistic(x); }
};

struct Clamp {
  double low, high;
  template <class V> HWY_INLINE V value(V x) const {
    const V a = all<V>(low), b = all<V>(high);
    return hn::IfThenElse(hn::Lt(x, a), a, hn::IfThenElse(hn::Gt(x, b), b, x));
  }
  template <class V> HWY_INLINE V derivative(V x) const { return chain(x, all<V>(1)); }
  template <class V> HWY_INLINE V chain(V x, V g) const {
    return hn::IfThenElseZero(hn::And(hn::Ge(x, all<V>(low)), hn::Le(x, all<V>(high))), g);
  }
};

/// g f'(x), or of the value, as derivative_uses_output says; by `chain` where a product would not do: 0 times an infinite g is
/// NaN.
template <class F, class V>
HWY_INLINE V chain(const F& function, V at, V g) {
  if constexpr (requires { function.chain(at, g); }) return function.chain(at, g);
  else return hn::Mul(g, function.derivative(at));
}

/// Calls `f` with the function that `op` names; `a` and `b` are its numbers.
template <class F>
void with_function(UnaryOp op, double a, double b, const F& f) {
  switch (op) {
    case UnaryOp::kScale: return f(Scale{a});
    case UnaryOp::kExp: return f(Exp{});
    case UnaryOp::kLog: return f(Log{});
    case UnaryOp::kSqrt: return f(Sqrt{});
    case UnaryOp::kRsqrt: return f(Rsqrt{});
    case UnaryOp::kPow: return f(Pow{a});
    case UnaryOp::kTanh: return f(Tanh{});
    case UnaryOp::kErf: return f(Erf{});
    case UnaryOp::kSigmoid: return f(Sigmoid{});
    case UnaryOp::kRelu: return f(Relu{});
    case UnaryOp::kGelu: return f(Gelu{});
    case UnaryOp::kGeluTanh: return f(GeluTanh{});
    case UnaryOp::kQuickGelu: return f(QuickGelu{});
    case UnaryOp::kSilu: return f(Silu{});
    case UnaryOp::kSoftplus: return f(Softplus{});
    case UnaryOp::kClamp: return f(Clamp{a, b});
  }
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT::unary_functions
