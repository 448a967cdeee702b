#include <string>
#include <utility>
#include <vector>

#include <cublasLt.h>

#include "tapecache/core/error.h"
#include "tapecache/ops/cuda/backend.h"
#include "tapecache/ops/cuda/cudnn_attention.h"
#include "tapecache/ops/cuda/devices.h"
#include "tapecache/ops/cuda/status.h"

namespace tapecache {

namespace kernels::cuda {

namespace {

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
  if (device >= 0 && device < device_count()) return;
  const cudaError_t found = why_no_devices();
  std::string there =
      device_count() == 1 ? "there is 1 CUDA device" : "there are " + std::to_string(device_count()) + " CUDA devices";
  if (found != cudaSuccess) there += std::string(": ") + cudaGetErrorString(found);
  throw DeviceError(std::string(op) + ": cuda:" + std::to_string(device) + " was asked for, and " + there);
}

void synchronize(int device) {
  select_device(device);
  wait();
}

constexpr DeviceBackend::Devices kDevices{
    .count = device_count,
    .name = name,
    .versions = versions,
    .require = require,
    .synchronize = synchronize,
    .waits = waits,
};

}  // namespace

}  // namespace kernels::cuda

const DeviceBackend cuda_backend{
    .devices = kernels::cuda::kDevices,
    .memory = kernels::cuda::kDeviceMemory,
    .pinned_memory = kernels::cuda::kPinnedMemory,
    .copies = kernels::cuda::kCopies,
    .fills = kernels::cuda::kFills,
    .checks = kernels::cuda::kChecks,
    .events = kernels::cuda::kEvents,
    .graphs = &kernels::cuda::kGraphs,
};

}  // namespace tapecache
