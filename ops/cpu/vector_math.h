#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

/// Element functions written so that the compiler turns loops over them into vector code: no branches, no library calls.
/// They are inlined whatever their size, since a call would end that. The f32 coefficients are least-squares fits on
/// Chebyshev nodes of the functions named beside them. For f64 the C library's functions are used.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

/// eˣ: x = n ln 2 + r, eʳ by polynomial, 2ⁿ put into the exponent in two steps so that it may be subnormal.
[[gnu::always_inline]] inline float exponential(float x) {
  // Below -104 the result is 0, and is not computed: arithmetic that underflows is slow, and masks are full of -Inf.
  const float in_range = x < -104.0f ? 0.0f : (x > 89.0f ? 89.0f : x);
  // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits; NaN stays NaN without a conversion.
  const float shifted = in_range * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (in_range - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.393373322e-03f;  // (eʳ - 1 - r) / r²
  p = p * r + 8.363235385e-03f;
  p = p * r + 4.166646417e-02f;
  p = p * r + 1.666657664e-01f;
  p = p * r + 5.000000014e-01f;
  p = p * (r * r) + r + 1.0f;
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(12582912.0f);
  const std::int32_t half = exponent >> 1;
  const auto power = [](std::int32_t e) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23);
  };
  return x < -104.0f ? 0.0f : p * power(half) * power(exponent - half);
}
inline double exponential(double x) { return std::exp(x); }

[[gnu::always_inline]] inline float hyperbolic_tangent(float x) {
  const float a = std::fabs(x), s = x * x;
  float p = -6.104949301e-03f;  // (tanh(x) / x - 1) / x²
  p = p * s + 2.100364235e-02f;
  p = p * s + -5.385249780e-02f;
  p = p * s + 1.333278227e-01f;
  p = p * s + -3.333332910e-01f;
  const float small = x + x * (p * s);
  const float large = 1.0f - 2.0f / (exponential(a + a) + 1.0f);
  return a < 0.625f ? small : std::copysign(large, x);
}
inline double hyperbolic_tangent(double x) { return std::tanh(x); }

[[gnu::always_inline]] inline float error_function(float x) {
  const float a = std::fabs(x), s = x * x;
  float p = -5.972102323e-04f;  // erf(x) / x - 1, in x²
  p = p * s + 4.989944512e-03f;
  p = p * s + -2.676478345e-02f;
  p = p * s + 1.128177858e-01f;
  p = p * s + -3.761249170e-01f;
  p = p * s + 1.283791496e-01f;
  const float small = x + x * p;
  const float t = a < 4.0f ? a : 4.0f;
  float q = 1.639667426e-05f;  // -log(erfc(t)) / t - 1
  q = q * t + -3.705697452e-04f;
  q = q * t + 3.814339066e-03f;
  q = q * t + -2.406359322e-02f;
  q = q * t + 1.064979663e-01f;
  q = q * t + 6.350560621e-01f;
  q = q * t + 1.286550432e-01f;
  const float large = 1.0f - exponential(-(t + t * q));
  return a < 0.93f ? small : (x != x ? x : std::copysign(large, x));
}
inline double error_function(double x) { return std::erf(x); }

/// log x = e ln 2 + log m with x = 2ᵉ m, m in [√½, √2); a subnormal x is first brought into the normal range.
[[gnu::always_inline]] inline float logarithm(float x) {
  const float scaled = x < 1.17549435e-38f ? x * 8388608.0f : x;
  const std::int32_t bits = std::bit_cast<std::int32_t>(scaled);
  const std::int32_t exponent = (bits - 0x3F3504F3) >> 23;
  const float f = std::bit_cast<float>(bits - (exponent << 23)) - 1.0f, s = f * f;
  const float e = static_cast<float>(exponent) - (x < 1.17549435e-38f ? 23.0f : 0.0f);
  float p = 6.797289027e-02f;  // (log(1 + f) - f + f²/2) / f³
  p = p * f + -1.170896173e-01f;
  p = p * f + 1.188262650e-01f;
  p = p * f + -1.239910817e-01f;
  p = p * f + 1.421942715e-01f;
  p = p * f + -1.666840199e-01f;
  p = p * f + 2.000214517e-01f;
  p = p * f + -2.500000153e-01f;
  p = p * f + 3.333331201e-01f;
  const float tail = e * -2.12194440e-4f + (s * (p * f) - 0.5f * s);
  const float value = e * 0.693359375f + (f + tail);
  const float infinity = std::numeric_limits<float>::infinity();
  const float edge = x == 0.0f ? -infinity : (x > 0.0f ? x : std::numeric_limits<float>::quiet_NaN());
  return x > 0.0f && x < infinity ? value : edge;
}
inline double logarithm(double x) { return std::log(x); }

/// log(1 + eˣ) for x ≤ 0: with u = eˣ, the rounding error of 1 + u is given back.
[[gnu::always_inline]] inline float log1p_exponential(float x) {
  const float u = exponential(x), w = 1.0f + u;
  return logarithm(w) + (u - (w - 1.0f)) / w;
}
inline double log1p_exponential(double x) { return std::log1p(std::exp(x)); }

template <class T>
[[gnu::always_inline]] inline T logistic(T x) {
  return T{1} / (T{1} + exponential(-x));
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
