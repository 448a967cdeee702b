#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/backend.h"
#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/packs.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/transfer.h"

namespace tapecache::kernels::cuda {

namespace {

template <class T>
__global__ void fill_kernel(std::int64_t n, T* to, T value) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) to[i] = value;
}

template <class To, class From>
struct Convert {
  const From* from;
  To* to;

  template <int kCount>
  __device__ void at(std::int64_t i) const {
    const auto source = read_pack<kCount>(from + i);
    Pack<To, kCount> converted;
#pragma unroll
    for (int k = 0; k < kCount; ++k) converted.x[k] = convert_element<To>(source.x[k]);
    write_pack(to + i, converted);
  }
};

template <class T>
__device__ bool is_finite(T value) {
  if constexpr (std::is_same_v<T, double>) return std::isfinite(value);
  else return std::isfinite(static_cast<float>(value));
}

/// The place of the first of each block's elements that is not finite, n where all are.
template <class T>
__global__ void first_non_finite_kernel(std::int64_t n, const T* x, std::int64_t* first_of_block) {
  std::int64_t first = n;
  for (std::int64_t i = thread_index(); i < n && first == n; i += thread_count()) {
    if (!is_finite(x[i])) first = i;
  }
  first = block_reduce(first, Minimum{});
  if (threadIdx.x == 0) first_of_block[blockIdx.x] = first;
}

__global__ void smallest_kernel(std::int64_t n, const std::int64_t* x, std::int64_t* smallest) {
  std::int64_t own = x[0];
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) own = Minimum{}(own, x[i]);
  own = block_reduce(own, Minimum{});
  if (threadIdx.x == 0) *smallest = own;
}

template <class T>
struct Accumulate {
  const T* from;
  T* to;

  template <int kCount>
  __device__ void at(std::int64_t i) const {
    const auto added = read_pack<kCount>(from + i);
    auto sum = read_pack<kCount>(to + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) put(sum.x[k], static_cast<ComputedType<T>>(added.x[k]), Mode::kAccumulate);
    write_pack(to + i, sum);
  }
};

void fill(int device, DType dtype, void* to, double value, std::int64_t n) {
  select_device(device);
  dispatch_any(dtype, [&]<class T>() {
    launch(fill_kernel<T>, grid_for(n), n, static_cast<T*>(to), convert_element<T>(value));
  });
}

void convert(int device, DType to_type, void* to, DType from_type, const void* from, std::int64_t n) {
  select_device(device);
  dispatch_any(from_type, [&]<class From>() {
    dispatch_any(to_type, [&]<class To>() {
      auto* target = static_cast<To*>(to);
      const auto* source = static_cast<const From*>(from);
      launch_each(n, Convert<To, From>{source, target}, source, target);
    });
  });
}

void accumulate(int device, DType dtype, void* to, const void* from, std::int64_t n) {
  select_device(device);
  dispatch_any_floating("accumulate", dtype, [&]<class T>() {
    auto* target = static_cast<T*>(to);
    const auto* source = static_cast<const T*>(from);
    launch_each(n, Accumulate<T>{source, target}, source, target);
  });
}

std::int64_t first_non_finite(int device, DType dtype, const void* elements, std::int64_t n) {
  constexpr std::int64_t kBlocks = 512;
  if (n == 0) return -1;
  select_device(device);
  const std::int64_t blocks = std::min(kBlocks, divide_up(n, kThreads));
  const Scratch<std::int64_t> first_of_block(blocks), first(1);
  dispatch_any(dtype, [&]<class T>() {
    launch(first_non_finite_kernel<T>, grid_of_rows(blocks), n, static_cast<const T*>(elements), first_of_block.data());
  });
  launch(smallest_kernel, grid_of_rows(1), blocks, first_of_block.data(), first.data());
  const std::int64_t found = fetch(first.data());
  return found < n ? found : -1;
}

}  // namespace

const DeviceBackend::Fills kFills{
    .fill = fill,
    .convert = convert,
    .accumulate = accumulate,
    .first_non_finite = first_non_finite,
};

}  // namespace tapecache::kernels::cuda
