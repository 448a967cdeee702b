#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "tapecache/ops/cpu/sums.h"
#include "tapecache/ops/cpu/vector_math.h"

/// Maxima and sums of exponentials of one contiguous row, shared by softmax, cross-entropy, the losses and the
/// reductions.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

template <class T>
inline constexpr T kNothing = -std::numeric_limits<T>::infinity();

/// The larger of two, or the first where the second is NaN.
template <class V>
HWY_INLINE V larger_of(V a, V b) {
  return hn::IfThenElse(hn::Gt(b, a), b, a);
}

/// The largest element; NaN elements are passed over.
template <class T>
T row_max(const T* x, std::int64_t n) {
  constexpr std::int64_t kUnroll = 4, kStep = kVecLanes<T>;
  Vec<T> largest[kUnroll];
  for (Vec<T>& v : largest) v = set(kNothing<T>);
  std::int64_t i = 0;
  for (; i + kUnroll * kStep <= n; i += kUnroll * kStep) {
    HWY_UNROLL(4)
    for (std::int64_t u = 0; u < kUnroll; ++u) largest[u] = larger_of(largest[u], load(x + i + u * kStep));
  }
  for_each_vec<T>(n - i, [&](std::int64_t j, auto at) TAPECACHE_INLINE {
    Vec<T> values = at.load(x + i + j);
    if (n - i - j < kStep) values = hn::IfThenElse(first_lanes<T>(n - i - j), values, set(kNothing<T>));
    largest[0] = larger_of(largest[0], values);
  });
  const Vec<T> all = larger_of(larger_of(largest[0], largest[1]), larger_of(largest[2], largest[3]));
  HWY_ALIGN T lanes[kVecLanes<T>];
  hn::Store(all, Tag<T>(), lanes);
  T result = lanes[0];
  for (const T lane : lanes) result = lane > result ? lane : result;
  return result;
}

/// Σ exp(x - shift)
template <class T>
double sum_exponentials(const T* x, T shift, std::int64_t n) {
  const Vec<T> s = set(shift);
  return sum_of<T>(
      n, [=](auto sum, auto v) TAPECACHE_INLINE { return hn::Add(sum, exponential(hn::Sub(v, s))); }, x);
}

/// log Σ exp(x) in two parts, whose sum it is: differences from it lose nothing where x is large.
template <class T>
struct LogSumExp {
  T shift, rest;
};

/// ±Inf where that is the maximum, NaN where the row holds one.
template <class T>
LogSumExp<T> row_logsumexp_parts(const T* x, std::int64_t n) {
  const T largest = row_max(x, n);
  const T shift = std::isfinite(largest) ? largest : T{0};
  const double sum = sum_exponentials(x, shift, n);
  if (std::isinf(largest) && !std::isnan(sum)) return {largest, T{0}};
  return {shift, static_cast<T>(std::log(sum))};
}

template <class T>
T row_logsumexp(const T* x, std::int64_t n) {
  const LogSumExp<T> parts = row_logsumexp_parts(x, n);
  return parts.shift + parts.rest;
}

/// One of f64 in parts of T.
template <class T>
LogSumExp<T> in_parts(double logsumexp) {
  const T shift = static_cast<T>(logsumexp);
  return {shift, std::isfinite(shift) ? static_cast<T>(logsumexp - static_cast<double>(shift)) : T{0}};
}

/// exp of one number, as a vector has it.
template <class T>
T exponential_of(T x) {
  return hn::GetLane(exponential(set(x)));
}

/// The maximum of a sum without summands.
inline constexpr double kNoSummand = -std::numeric_limits<double>::infinity();

/// Maximum and sum of exponentials relative to it, for a RunningLogSumExp.
template <class T>
void row_parts(const T* x, std::int64_t n, double& largest, double& sum) {
  const T top = row_max(x, n), shift = std::isfinite(top) ? top : T{0};
  sum = sum_exponentials(x, shift, n);
  largest = sum == 0 ? kNoSummand : static_cast<double>(shift);
}

/// Running maxima and sums of exponentials relative to them.
struct RunningLogSumExp {
  double* largest;
  double* sum;

  void add(std::int64_t i, double other_largest, double other_sum) const {
    const double before = largest[i], top = other_largest > before ? other_largest : before;
    if (top == kNoSummand) {
      sum[i] += other_sum;  // nothing yet, or NaN
      return;
    }
    sum[i] = sum[i] * std::exp(before - top) + other_sum * std::exp(other_largest - top);
    largest[i] = top;
  }
  double logsumexp(std::int64_t i) const {
    return largest[i] == kNoSummand ? largest[i] + sum[i] : largest[i] + std::log(sum[i]);
  }
};

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
