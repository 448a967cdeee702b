#include "tapecache/core/device.h"

#include <atomic>

#include <fmt/format.h>

#include "tapecache/core/device_backend.h"

namespace tapecache {

namespace {

std::atomic<bool> tf32{false};

}  // namespace

void allow_tf32(bool allowed) { tf32 = allowed; }

bool tf32_allowed() { return tf32; }

int cuda_device_count() { return device_backend::count(); }

std::string device_name(Device device) {
  if (device.is_cpu()) return "cpu";
  device_backend::require("device_name", device.index);
  return device_backend::name(device.index);
}

std::vector<std::pair<std::string, std::string>> device_versions(Device device) {
  device_backend::require("device_versions", device.is_cpu() ? -1 : device.index);
  return device_backend::versions(device.index);
}

void synchronize(Device device) {
  if (device.is_cpu()) return;
  device_backend::require("synchronize", device.index);
  device_backend::synchronize(device.index);
}

std::uint64_t device_waits() { return device_backend::waits(); }

std::string to_string(Device device) { return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index); }

}  // namespace tapecache
