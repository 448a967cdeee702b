#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace tapecache::kernels::cuda {

/// The first check of values (`value_checks.h`) that failed on a device since the host last looked.
struct Fault {
  int found;  ///< not 0 once the rest is there
  std::int64_t check, position, value;
};

/// Where a device leaves it: in host memory that the device writes to, so that the host, once it has waited for the
/// device for whatever reason, need not ask for it.
struct Faults {
  volatile Fault* seen_by_host;
  volatile Fault* seen_by_device;
  int* raised;  ///< in the device's own memory, where kernels look: not 0 from a fault on until the host has thrown it
};

/// For the current device, whose stream this is.
Faults make_faults(cudaStream_t);
const Faults& current_faults();

/// Throws the current device's fault, where there is one, and forgets it. After a wait for the device.
void throw_fault();

}  // namespace tapecache::kernels::cuda
