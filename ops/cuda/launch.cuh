#pragma once

#include <cstddef>
#include <cstdint>

#include "tapecache/ops/cuda/devices.h"
#include "tapecache/ops/cuda/status.h"

namespace tapecache::kernels::cuda {

constexpr unsigned kThreads = 256;  // a block's, where nothing else is said
constexpr std::int64_t kMaxBlocks = 1 << 16;
constexpr std::size_t kPlainSharedBytes = 48 << 10;  // above it a kernel must be told

struct Grid {
  dim3 blocks, threads = kThreads;
  std::size_t shared_bytes = 0;
};

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr unsigned block_count(std::int64_t count) {
  return static_cast<unsigned>(count < kMaxBlocks ? count : kMaxBlocks);
}

/// For a kernel that walks n elements from thread_index() on in steps of thread_count().
constexpr Grid grid_for(std::int64_t n) { return {block_count(divide_up(n, kThreads))}; }

/// For a kernel whose blocks walk n rows from blockIdx.x on in steps of gridDim.x.
constexpr Grid grid_of_rows(std::int64_t rows, unsigned threads = kThreads) { return {block_count(rows), threads}; }

__device__ inline std::int64_t thread_index() { return std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline std::int64_t thread_count() { return std::int64_t{gridDim.x} * blockDim.x; }

extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];

/// The shared memory that a Grid asks for.
template <class T>
__device__ T* dynamic_shared() {
  return reinterpret_cast<T*>(dynamic_shared_bytes);
}

/// Lets a kernel ask for this much shared memory on the current device, now and from here on.
void allow_shared_bytes(const void* kernel, std::size_t bytes);

[[noreturn]] void throw_launch_failure(cudaError_t, const Grid&);

/// Queues a kernel on the current stream; nothing where the grid has no block. Arguments are converted to the kernel's
/// parameters.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Grid& grid, const Arguments&... arguments) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
  if (grid.shared_bytes > kPlainSharedBytes)
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), grid.shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = current_stream();
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (status != cudaSuccess) throw_launch_failure(status, grid);
}

}  // namespace tapecache::kernels::cuda
