#pragma once

#include <cmath>

#include "tapecache/ops/cuda/row_threads.cuh"

namespace tapecache::kernels::cuda {

/// log Σ exp(x) in two parts, whose sum it is: differences from it lose nothing where x is large.
template <class T>
struct LogSumExp {
  T shift, rest;
};

/// ±Inf where that is the maximum, NaN where the row holds one.
template <class By, class T>
__device__ LogSumExp<T> logsumexp_parts(const Row<By, Elements<T>>& row) {
  const T largest = row.maximum(), shift = std::isfinite(largest) ? largest : T{0};
  const T sum = row.sum([=](std::int64_t, T v) { return std::exp(v - shift); });
  if (std::isinf(largest) && !std::isnan(sum)) return {largest, T{0}};
  return {shift, std::log(sum)};
}

}  // namespace tapecache::kernels::cuda
