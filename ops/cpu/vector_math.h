#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "tapecache/ops/cpu/vec.h"

/// Functions of a vector of elements. The f32 coefficients are fits of the functions named beside them on Chebyshev
/// nodes; each result is within two units in the last place, the density and what is made of it within four. For f64
/// the C library's functions are called element by element.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace vector_math {

template <class V>
using Element = hn::TFromV<V>;
template <class V>
constexpr bool kIsFloat = sizeof(Element<V>) == sizeof(float);

/// A constant in every lane.
template <class V>
HWY_INLINE V all(double value) {
  return hn::Set(hn::DFromV<V>(), static_cast<Element<V>>(value));
}

template <class V, class F>
HWY_INLINE V by_element(V x, const F& f) {
  const hn::DFromV<V> tag;
  HWY_ALIGN Element<V> values[hn::MaxLanes(tag)];
  hn::Store(x, tag, values);
  for (Element<V>& value : values) value = f(value);
  return hn::Load(tag, values);
}

/// c₀ + c₁ x + c₂ x² + …
template <class V>
HWY_INLINE V polynomial(V, double c0) {
  return all<V>(c0);
}
template <class V, class... C>
HWY_INLINE V polynomial(V x, double c0, C... rest) {
  return hn::MulAdd(polynomial(x, rest...), x, all<V>(c0));
}

/// Whether results below the least normal number, 2⁻¹²⁶, are given or are 0, which takes fewer steps.
enum class Subnormal { kGiven, kZero };

/// exp(x + tail) for a small tail: x = n ln 2 + r, exp(r) by polynomial, 2ⁿ put into the exponent.
template <Subnormal kSubnormal, class V>
HWY_INLINE V float_exponential(V x, V tail) {
  const hn::DFromV<V> tag;
  const hn::RebindToSigned<hn::DFromV<V>> integers;
  // Such a result is 0 and is not computed: arithmetic that underflows is slow, and masks are full of -Inf.
  const auto vanishes = hn::Lt(x, all<V>(kSubnormal == Subnormal::kGiven ? -104 : -87.3));
  const V bounded = hn::IfThenElse(hn::Gt(x, all<V>(89)), all<V>(89), hn::IfThenZeroElse(vanishes, x));
  // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits; NaN stays NaN without a conversion.
  const V shifter = all<V>(12582912);
  const V shifted = hn::MulAdd(bounded, all<V>(1.44269504), shifter), n = hn::Sub(shifted, shifter);
  V r = hn::NegMulAdd(n, all<V>(0.693359375), bounded);
  r = hn::Add(hn::NegMulAdd(n, all<V>(-2.12194440e-4), r), tail);
  const V p = polynomial(r, 0.5, 0.16666663, 0.041666348, 0.008334058, 0.0013946559, 0.00019564842);
  const V value = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), all<V>(1));  // p is (eʳ - 1 - r) / r²
  const auto exponent = hn::Sub(hn::BitCast(integers, shifted), hn::BitCast(integers, shifter));
  const auto power = [&](auto e) TAPECACHE_INLINE {
    return hn::BitCast(tag, hn::ShiftLeft<23>(hn::Add(e, hn::Set(integers, 127))));
  };
  if constexpr (kSubnormal == Subnormal::kZero) {
    return hn::IfThenZeroElse(vanishes, hn::Mul(value, power(exponent)));
  } else {
    const auto half = hn::ShiftRight<1>(exponent);
    return hn::IfThenZeroElse(vanishes, hn::Mul(hn::Mul(value, power(half)), power(hn::Sub(exponent, half))));
  }
}

}  // namespace vector_math

/// For what is added up, or divided by: f32 results that would be subnormal are 0, unless they are asked for.
template <vector_math::Subnormal kSubnormal = vector_math::Subnormal::kZero, class V>
HWY_INLINE V exponential(V x) {
  using namespace vector_math;
  if constexpr (kIsFloat<V>) return float_exponential<kSubnormal>(x, hn::Zero(hn::DFromV<V>()));
  else return by_element(x, [](double v) { return std::exp(v); });
}

template <class V>
HWY_INLINE V hyperbolic_tangent(V x) {
  using namespace vector_math;
  if constexpr (kIsFloat<V>) {
    const V a = hn::Abs(x), s = hn::Mul(x, x), one = all<V>(1);
    // (tanh(x) / x - 1) / x²
    const V p = polynomial(s, -3.333332910e-01, 1.333278227e-01, -5.385249780e-02, 2.100364235e-02, -6.104949301e-03);
    const V small = hn::MulAdd(x, hn::Mul(p, s), x);
    const V large = hn::Sub(one, hn::Div(all<V>(2), hn::Add(exponential(hn::Add(a, a)), one)));
    return hn::IfThenElse(hn::Lt(a, all<V>(0.625)), small, hn::CopySign(large, x));
  } else {
    return by_element(x, [](double v) { return std::tanh(v); });
  }
}

template <class V>
HWY_INLINE V error_function(V x) {
  using namespace vector_math;
  if constexpr (kIsFloat<V>) {
    const V a = hn::Abs(x), s = hn::Mul(x, x);
    // erf(x) / x - 1
    const V p = polynomial(s, 1.283791496e-01, -3.761249170e-01, 1.128177858e-01, -2.676478345e-02, 4.989944512e-03,
                           -5.972102323e-04);
    const V small = hn::MulAdd(x, p, x);
    const V t = hn::IfThenElse(hn::Gt(a, all<V>(4)), all<V>(4), a);  // in this order a NaN stays one
    // -log(erfc(t)) / t - 1
    const V q = polynomial(t, 1.286550432e-01, 6.350560621e-01, 1.064979663e-01, -2.406359322e-02, 3.814339066e-03,
                           -3.705697452e-04, 1.639667426e-05);
    const V large = hn::Sub(all<V>(1), exponential(hn::Neg(hn::MulAdd(t, q, t))));
    return hn::IfThenElse(hn::Lt(a, all<V>(0.93)), small, hn::CopySign(large, x));
  } else {
    return by_element(x, [](double v) { return std::erf(v); });
  }
}

/// log x = e ln 2 + log m with x = 2ᵉ m, m in [√½, √2); a subnormal x is first brought into the normal range.
template <class V>
HWY_INLINE V logarithm(V x) {
  using namespace vector_math;
  if constexpr (kIsFloat<V>) {
    const hn::DFromV<V> tag;
    const hn::RebindToSigned<hn::DFromV<V>> integers;
    const auto is_subnormal = hn::Lt(x, all<V>(1.17549435e-38));
    const auto bits = hn::BitCast(integers, hn::IfThenElse(is_subnormal, hn::Mul(x, all<V>(8388608)), x));
    const auto exponent = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(integers, 0x3F3504F3)));
    const V f = hn::Sub(hn::BitCast(tag, hn::Sub(bits, hn::ShiftLeft<23>(exponent))), all<V>(1)), s = hn::Mul(f, f);
    const V e = hn::Sub(hn::ConvertTo(tag, exponent), hn::IfThenElseZero(is_subnormal, all<V>(23)));
    // (log(1 + f) - f + f²/2) / f³
    const V p = polynomial(f, 3.333333201e-01, -2.500000153e-01, 2.000214517e-01, -1.666840199e-01, 1.421942715e-01,
                           -1.239910817e-01, 1.188262650e-01, -1.170896173e-01, 6.797289027e-02);
    const V tail = hn::MulAdd(e, all<V>(-2.12194440e-4), hn::Mul(s, hn::MulSub(p, f, all<V>(0.5))));
    const V value = hn::MulAdd(e, all<V>(0.693359375), hn::Add(f, tail));
    const V infinity = all<V>(std::numeric_limits<double>::infinity());
    const V of_others = hn::IfThenElse(hn::Gt(x, hn::Zero(tag)), x, all<V>(std::numeric_limits<double>::quiet_NaN()));
    const V edge = hn::IfThenElse(hn::Eq(x, hn::Zero(tag)), hn::Neg(infinity), of_others);
    return hn::IfThenElse(hn::And(hn::Gt(x, hn::Zero(tag)), hn::Lt(x, infinity)), value, edge);
  } else {
    return by_element(x, [](double v) { return std::log(v); });
  }
}

/// log(1 + eˣ) for x ≤ 0: with u = eˣ, the rounding error of 1 + u is given back.
template <class V>
HWY_INLINE V log1p_exponential(V x) {
  using namespace vector_math;
  if constexpr (kIsFloat<V>) {
    const V one = all<V>(1), u = exponential(x), w = hn::Add(one, u);
    return hn::Add(logarithm(w), hn::Div(hn::Sub(u, hn::Sub(w, one)), w));
  } else {
    return by_element(x, [](double v) { return std::log1p(std::exp(v)); });
  }
}

/// log(1 + eᶻ) for any z.
template <class V>
HWY_INLINE V softplus(V z) {
  const V zero = hn::Zero(hn::DFromV<V>());
  return hn::Add(hn::IfThenElse(hn::Lt(z, zero), zero, z), log1p_exponential(hn::Neg(hn::Abs(z))));
}

template <class V>
HWY_INLINE V logistic(V x) {
  const V one = vector_math::all<V>(1);
  return hn::Div(one, hn::Add(one, exponential(hn::Neg(x))));
}

namespace vector_math {

/// The normal distribution in the lower tail, for t ≥ 0: Φ(-t), and Φ(-t) - t φ(-t), which is the derivative of GELU at
/// -t. Both are e^(-t²/2) times a function to which an approximated part adds little where rounding would count most,
/// so that nothing cancels; the second has the factor root - t by itself and keeps its digits beside the root. Both are
/// 0 from t = 13.2 on.
template <class V>
struct LowerTail {
  V t, density;  ///< t is cut at 15; density is e^(-t²/2)

  explicit HWY_INLINE LowerTail(V given) {
    t = hn::IfThenElse(hn::Gt(given, all<V>(15)), all<V>(15), given);  // in this order a NaN stays one
    // t² in two parts, or its rounding error would count t² / 2 times.
    const hn::RebindToUnsigned<hn::DFromV<V>> bits;
    const V head = hn::BitCast(hn::DFromV<V>(), hn::And(hn::BitCast(bits, t), hn::Set(bits, 0xFFFFF000u)));
    const V tail = hn::Mul(hn::Sub(t, head), hn::Add(t, head)), minus_half = all<V>(-0.5);
    density = float_exponential<Subnormal::kZero>(hn::Mul(hn::Mul(head, head), minus_half), hn::Mul(tail, minus_half));
  }
  /// e^(-t²/2) / (√(2π) t + r(t))
  HWY_INLINE V probability() const {
    const V r = hn::Div(polynomial(t, 2.0, 1.2543944, 0.41326898, 0.073978245, 0.006159964),
                        polynomial(t, 1.0, 1.0826268, 0.56307435, 0.16949873, 0.029526435, 0.0024571957));
    return hn::Div(density, hn::MulAdd(t, all<V>(2.5066283), r));
  }
  /// e^(-t²/2) (root - t) (1 / √(2π) + r(t))
  HWY_INLINE V gelu_derivative() const {
    const V r = hn::Div(polynomial(t, 0.26613572, 0.24681349, 0.10334185, 0.022267817, 0.0021118824),
                        polynomial(t, 1.0, 1.5911694, 1.0778893, 0.39286458, 0.07832065, 0.0070413984));
    const V factor = hn::Add(all<V>(0.3989423), r);
    // The root in two parts; by the first the difference is exact where it matters.
    const V product = hn::MulAdd(hn::Sub(all<V>(0.75179154), t), factor, hn::Mul(all<V>(-1.211444946e-8), factor));
    return hn::Mul(density, product);
  }
};

}  // namespace vector_math

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
