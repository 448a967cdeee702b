#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/language.h"

namespace tapecache {

enum class DeviceType { kCpu, kCuda };

/// Where a tensor lives: the host, or one CUDA device.
struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  static constexpr Device cpu() { return {}; }
  static constexpr Device cuda(int index = 0) { return {DeviceType::kCuda, index}; }

  bool is_cpu() const { return type == DeviceType::kCpu; }
  bool operator==(const Device&) const = default;
};

/// CUDA devices that can be used: 0 where this build has no CUDA backend or the machine no device.
int cuda_device_count();

/// Waits until a device has done all it was given. Throws DeviceError where there is no such device, or where some of
/// its work failed, and what a check of values throws that failed there (`value_checks.h`).
void synchronize(Device device);

/// Times that this process has waited for a CUDA device: where a training loop can be seen to hold up its device.
std::uint64_t device_waits();

/// What a CUDA device calls itself ("emulated" where it is one), or "cpu". Throws DeviceError where there is no such
/// device.
std::string device_name(Device device);

/// Names and versions of what a CUDA device is reached by: its capability, the driver, the runtime, cuBLASLt. Throws
/// DeviceError where there is no such device.
std::vector<std::pair<std::string, std::string>> device_versions(Device device);

/// Whether f32 products on CUDA devices may round their factors to TF32, which has 10 bits after the point, as tensor
/// cores take them. For the whole process; false unless it is set.
void allow_tf32(bool allowed);
bool tf32_allowed();

/// "cpu" or "cuda:0".
std::string to_string(Device device);

}  // namespace tapecache
