#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "tapecache/ops/cpu/vector_math.h"

/// Sums and maxima over one contiguous row, shared by softmax, cross-entropy and the reductions.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

template <class T>
T row_sum(const T* x, std::int64_t n) {
  T sum{0};
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

/// The largest element; NaN elements are passed over.
template <class T>
T row_max(const T* x, std::int64_t n) {
  T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
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
  T sum{0};
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += exponential(x[i] - shift);
  if (std::isinf(largest) && !std::isnan(sum)) return {largest, T{0}};
  return {shift, std::log(sum)};
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

/// The maximum of a sum without summands.
inline constexpr double kNoSummand = -std::numeric_limits<double>::infinity();

/// Maximum and sum of exponentials relative to it, for a RunningLogSumExp.
template <class T>
void row_parts(const T* x, std::int64_t n, double& largest, double& sum) {
  const T top = row_max(x, n), shift = std::isfinite(top) ? top : T{0};
  T total{0};
#pragma omp simd reduction(+ : total)
  for (std::int64_t i = 0; i < n; ++i) total += exponential(x[i] - shift);
  largest = total == T{0} ? kNoSummand : static_cast<double>(shift);
  sum = static_cast<double>(total);
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
