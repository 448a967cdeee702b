#pragma once

#include <cmath>
#include <concepts>

#include "tapecache/ops/cuda/block_reduce.cuh"

namespace tapecache::kernels::cuda {

/// Two numbers that are summed together, each by itself. One number alone stands for both.
template <class T>
struct Pair {
  T first, second;

  Pair() = default;
  constexpr Pair(T both) : first(both), second(both) {}
  template <std::integral I>
  explicit constexpr Pair(I both) : Pair(static_cast<T>(both)) {}
  constexpr Pair(T a, T b) : first(a), second(b) {}
  template <class U>
  explicit constexpr Pair(const Pair<U>& b) : first(static_cast<T>(b.first)), second(static_cast<T>(b.second)) {}
  constexpr Pair& operator+=(const Pair& b) { return *this = *this + b; }
  friend constexpr Pair operator+(const Pair& a, const Pair& b) { return {a.first + b.first, a.second + b.second}; }
  friend __device__ bool all_finite(const Pair& x) { return std::isfinite(x.first) && std::isfinite(x.second); }
  friend constexpr Pair operator/(const Pair& a, const Pair& b) { return {a.first / b.first, a.second / b.second}; }
  friend constexpr Pair operator*(const Pair& a, const Pair& b) { return {a.first * b.first, a.second * b.second}; }
};

template <>
struct LongSum<Pair<float>> {
  using Type = Pair<double>;
};
__device__ inline Pair<double> finite_or(const Pair<float>& x, const Pair<double>& otherwise) {
  return {std::isfinite(x.first) ? static_cast<double>(x.first) : otherwise.first,
          std::isfinite(x.second) ? static_cast<double>(x.second) : otherwise.second};
}

template <class T>
__device__ Pair<T> warp_reduce(Pair<T> value, Sum) {
  return {warp_reduce(value.first, Sum{}), warp_reduce(value.second, Sum{})};
}

}  // namespace tapecache::kernels::cuda
