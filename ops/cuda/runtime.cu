#include <algorithm>
#include <cmath>
#include <vector>

#include <cublasLt.h>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/element.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/capture.h"
#include "tapecache/ops/cuda/cudnn_attention.h"
#include "tapecache/ops/cuda/faults.h"
#include "tapecache/ops/cuda/packs.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/transfer.h"

namespace tapecache {

namespace kernels::cuda {

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
    for (int k = 0; k < kCount; ++k)
      put(sum.x[k], static_cast<ComputedType<T>>(added.x[k]), kernels::Mode::kAccumulate);
    write_pack(to + i, sum);
  }
};

void copy_bytes(int device, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, const char* what) {
  if (bytes == 0) return;
  select_device(device);
  check(cudaMemcpyAsync(to, from, bytes, kind, current_stream()), what);
}

}  // namespace

}  // namespace kernels::cuda

namespace device_backend {

using namespace kernels::cuda;

int count() { return device_count(); }

std::string name(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking for a device's name");
  return properties.name;
}

std::vector<std::pair<std::string, std::string>> versions(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking for a device's properties");
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver), "asking for the driver's version");
  check(cudaRuntimeGetVersion(&runtime), "asking for the runtime's version");
  const auto dotted = [](int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  };
  return {{"capability", std::to_string(properties.major) + "." + std::to_string(properties.minor)},
          {"cuda_driver", dotted(driver)},
          {"cuda_runtime", dotted(runtime)},
          {"cublaslt", std::to_string(cublasLtGetVersion())},
          {"cudnn", cudnn_version()}};
}

void require(const char* op, int device) {
  if (device >= 0 && device < count()) return;
  const cudaError_t found = why_no_devices();
  std::string there =
      count() == 1 ? "there is 1 CUDA device" : "there are " + std::to_string(count()) + " CUDA devices";
  if (found != cudaSuccess) there += std::string(": ") + cudaGetErrorString(found);
  throw DeviceError(std::string(op) + ": cuda:" + std::to_string(device) + " was asked for, and " + there);
}

// The emulation guards the bounds of each piece.
bool shares_segments(int device) {
  static const bool emulated = name(device) == "emulated";
  return !emulated;
}

// The caller may change the memory when this returns. Most devices have read it by then.
void copy_to_device(int device, void* to, const void* from, std::size_t bytes) {
  constexpr std::size_t kFewBytes = 16 << 10;
  if (bytes <= kFewBytes && bytes % sizeof(std::uint32_t) == 0) {
    select_device(device);
    return upload(from, bytes, to);
  }
  copy_bytes(device, to, lasting(from, bytes), bytes, cudaMemcpyHostToDevice, "a copy to the device");
  if (bytes > 0 && queues_of(device).reads_pageable_memory && !is_recording()) synchronize(device);
}

void copy_to_host(int device, void* to, const void* from, std::size_t bytes) {
  require_no_capture();
  copy_bytes(device, to, from, bytes, cudaMemcpyDeviceToHost, "a copy to the host");
  synchronize(device);
}

void copy(int device, void* to, const void* from, std::size_t bytes) {
  copy_bytes(device, to, from, bytes, cudaMemcpyDeviceToDevice, "a copy");
}

void set_bytes(int device, void* to, int byte, std::size_t bytes) {
  if (bytes == 0) return;
  select_device(device);
  check(cudaMemsetAsync(to, byte, bytes, current_stream()), "setting memory");
}

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

std::uint64_t waits() { return kernels::cuda::waits(); }

void synchronize(int device) {
  select_device(device);
  kernels::cuda::wait();
}

}  // namespace device_backend

}  // namespace tapecache
