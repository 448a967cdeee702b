#pragma once

#include <string>

#include <cuda_runtime.h>

namespace tapecache::kernels::cuda {

/// Throws DeviceError "op: what failed: reason" with the running op.
[[noreturn]] void throw_failure(const std::string& what, const char* reason);

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next check would find it again
  throw_failure(what, cudaGetErrorString(status));
}

}  // namespace tapecache::kernels::cuda
