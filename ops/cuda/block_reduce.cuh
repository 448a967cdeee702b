#pragma once

#include <cmath>

#include <cuda_runtime.h>

namespace tapecache::kernels::cuda {

constexpr unsigned kWarp = 32, kAllLanes = 0xffffffffu;

/// What sums of many T are kept in, so that a long one loses nothing.
template <class T>
struct LongSum {
  using Type = T;
};
template <>
struct LongSum<float> {
  using Type = double;
};

__device__ inline bool all_finite(float x) { return std::isfinite(x); }
__device__ inline bool all_finite(double x) { return std::isfinite(x); }
__device__ inline double finite_or(float x, double otherwise) {
  return std::isfinite(x) ? static_cast<double>(x) : otherwise;
}

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// The larger; a NaN counts as larger than any number.
struct Maximum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b > a || b != b ? b : a;
  }
};

struct Minimum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

/// What all 32 lanes hold, combined in a fixed order. All get the same bits.
template <class T, class Combine>
__device__ T warp_reduce(T value, Combine combine) {
  for (int bits = kWarp / 2; bits > 0; bits /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, bits));
  return value;
}

/// What all threads of a block hold, combined in a fixed order. All get the same bits. Blocks have one axis, of a
/// multiple of 32 threads; every thread must call this.
template <class T, class Combine>
__device__ T block_reduce(T value, Combine combine) {
  __shared__ T of_warp[kWarp];
  value = warp_reduce(value, combine);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  T total = of_warp[0];
  for (unsigned i = 1; i < blockDim.x / kWarp; ++i) total = combine(total, of_warp[i]);
  __syncthreads();  // of_warp is free again
  return total;
}

template <class T>
__device__ T block_sum(T value) {
  return block_reduce(value, Sum{});
}

template <class T>
__device__ T block_max(T value) {
  return block_reduce(value, Maximum{});
}

}  // namespace tapecache::kernels::cuda
