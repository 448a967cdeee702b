#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace tapecache::kernels::cuda {

int device_count();
/// Why there is none, where asking for them failed.
cudaError_t why_no_devices();

/// Makes a device the one that this thread's kernels run on.
void select_device(int device);
int current_device();

struct DeviceQueues {
  cudaStream_t compute = nullptr;      ///< for kernels, of all threads
  cudaStream_t copies = nullptr;       ///< for copies that run beside them
  cudaMemPool_t pool = nullptr;        ///< null where the device has no stream-ordered memory
  bool reads_pageable_memory = false;  ///< by itself, so that CUDA need not have read it when a copy from there returns
};
/// Made when it is first asked for.
const DeviceQueues& queues_of(int device);

/// The stream that this thread's kernels run on: one for each device, which all threads share, unless a StreamScope
/// says another. Memory that the host frees is handed out again without waiting, so work on several streams of a device
/// must be put in order by who makes them.
cudaStream_t current_stream();

/// Waits for the current stream. Throws DeviceError where its work failed, and what a check throws that failed on the
/// device.
void wait();
/// How often the host has waited.
std::uint64_t waits();

/// Puts the kernels of this thread on a stream for a scope.
class StreamScope {
 public:
  explicit StreamScope(cudaStream_t stream);
  ~StreamScope();
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  cudaStream_t previous_;
  bool had_previous_;
};

}  // namespace tapecache::kernels::cuda
