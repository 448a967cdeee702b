#pragma once

#include <string>

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

/// "cpu" or "cuda:0".
std::string to_string(Device device);

}  // namespace tapecache
