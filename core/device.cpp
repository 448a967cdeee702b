#include "tapecache/core/device.h"

#include <fmt/format.h>

namespace tapecache {

std::string to_string(Device device) { return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index); }

}  // namespace tapecache
