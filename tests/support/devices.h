#pragma once

#include <vector>

#include "tapecache/core/device.h"

namespace tapecache::testing {

/// The CPU and, where there is one, the CUDA device.
inline std::vector<Device> devices() {
  std::vector<Device> all{Device::cpu()};
  if (cuda_device_count() > 0) all.push_back(Device::cuda());
  return all;
}

}  // namespace tapecache::testing
