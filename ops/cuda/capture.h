#pragma once

#include <cstddef>

#include <cuda_runtime.h>

namespace tapecache::kernels::cuda {

/// Whether this thread records a step.
bool is_recording();

/// The stream for copies beside the work that this thread records. It is in the capture from its first wait on, until
/// that ends. Throws DeviceError where the step is recorded for another device.
cudaStream_t graph_copies(int device);

/// Throws DeviceError where this thread records a step: what is only recorded cannot be waited for.
void require_no_capture(const char* what = "waits for the device");

/// The bytes, or, while this thread records a step, a copy of them that lives as long as what is recorded, in memory
/// that the device copies from by itself.
const void* lasting(const void* host_bytes, std::size_t bytes);

}  // namespace tapecache::kernels::cuda
