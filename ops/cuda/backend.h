#pragma once

#include "tapecache/core/device_backend.h"

namespace tapecache::kernels::cuda {

// The parts of `cuda_backend`, each in the file of what it is about.

extern const DeviceBackend::Memory kDeviceMemory, kPinnedMemory;  // memory.cu
extern const DeviceBackend::Copies kCopies;                       // copies.cu
extern const DeviceBackend::Events kEvents;                       // copies.cu
extern const DeviceBackend::Fills kFills;                         // fills.cu
extern const DeviceBackend::Checks kChecks;                       // checks.cu
extern const DeviceBackend::Graphs kGraphs;                       // capture.cu

}  // namespace tapecache::kernels::cuda
