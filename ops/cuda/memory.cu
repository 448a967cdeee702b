#include <cstring>
#include <string>

#include "tapecache/ops/cuda/backend.h"
#include "tapecache/ops/cuda/devices.h"
#include "tapecache/ops/cuda/status.h"

// Memory of devices, in the order of their work, and page-locked memory of the host.

namespace tapecache::kernels::cuda {

namespace {

/// Throws for every failure but a want of room.
bool has_room(cudaError_t status, const std::string& what) {
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return false;
  }
  check(status, what.c_str());
  return true;
}

void trim(int device) noexcept {
  const DeviceQueues& queues = queues_of(device);
  if (!queues.pool) return;
  cudaStreamSynchronize(queues.compute);
  cudaMemPoolTrimTo(queues.pool, 0);
  cudaGetLastError();
}

// Segments belong to the device's own stream even where this thread's kernels run on another: a graph that is recorded
// there may not own memory that outlives it.
void* allocate(int device, std::size_t bytes) {
  select_device(device);
  const DeviceQueues& queues = queues_of(device);
  const std::string what = "allocating " + std::to_string(bytes) + " bytes of memory";
  void* memory = nullptr;
  if (!queues.pool) return has_room(cudaMalloc(&memory, bytes), what) ? memory : nullptr;
  if (!has_room(cudaMallocFromPoolAsync(&memory, bytes, queues.pool, queues.compute), what)) {
    trim(device);  // what was freed may be in the pool in pieces
    if (!has_room(cudaMallocFromPoolAsync(&memory, bytes, queues.pool, queues.compute), what)) return nullptr;
  }
  if (current_stream() != queues.compute) check(cudaStreamSynchronize(queues.compute), what.c_str());
  return memory;
}

void release(int device, void* memory) noexcept {
  const DeviceQueues& queues = queues_of(device);
  // Without a pool it waits for the device, so no kernel is left that uses the memory.
  if (queues.pool) cudaFreeAsync(memory, queues.compute);
  else cudaFree(memory);
  cudaGetLastError();
}

void* allocate_pinned(int, std::size_t bytes) {
  cuda_backend.devices.require("allocate_pinned", 0);
  void* memory = nullptr;
  const std::string what = "page-locking " + std::to_string(bytes) + " bytes of the host's memory";
  return has_room(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), what) ? memory : nullptr;
}

void release_pinned(int, void* memory) noexcept {
  cudaFreeHost(memory);
  cudaGetLastError();
}

void set_bytes(int device, void* to, int byte, std::size_t bytes) {
  if (bytes == 0) return;
  select_device(device);
  check(cudaMemsetAsync(to, byte, bytes, current_stream()), "setting memory");
}

void set_host_bytes(int, void* to, int byte, std::size_t bytes) { std::memset(to, byte, bytes); }

// The emulator guards the bounds of each piece.
bool shares_segments(int device) {
  static const bool emulated = cuda_backend.devices.name(device) == "emulated";
  return !emulated;
}

bool shares_pinned_segments(int) { return true; }
void keep_pinned(int) noexcept {}

}  // namespace

const DeviceBackend::Memory kDeviceMemory{
    .alignment = 256,
    .is_host = false,
    .is_pinned = false,
    .shares_segments = shares_segments,
    .allocate = allocate,
    .release = release,
    .trim = trim,
    .set_bytes = set_bytes,
};

const DeviceBackend::Memory kPinnedMemory{
    .alignment = 64,
    .is_host = true,
    .is_pinned = true,
    .shares_segments = shares_pinned_segments,
    .allocate = allocate_pinned,
    .release = release_pinned,
    .trim = keep_pinned,
    .set_bytes = set_host_bytes,
};

}  // namespace tapecache::kernels::cuda
