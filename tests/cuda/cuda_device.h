#pragma once

#include "devices.h"

namespace tapecache::testing {

/// kDevice, in tests that are about CUDA itself.
inline constexpr Device kCuda = Device::cuda();

}  // namespace tapecache::testing
