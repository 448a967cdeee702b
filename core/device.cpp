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

int cuda_device_count() { return cuda_backend.devices.count(); }

std::string device_name(Device device) {
  const DeviceBackend::Devices& devices = backend_of(device).devices;
  devices.require("device_name", device.index);
  return devices.name(device.index);
}

std::vector<std::pair<std::string, std::string>> device_versions(Device device) {
  const DeviceBackend::Devices& devices = backend_of(device).devices;
  devices.require("device_versions", device.index);
  return devices.versions(device.index);
}

void synchronize(Device device) {
  const DeviceBackend::Devices& devices = backend_of(device).devices;
  devices.require("synchronize", device.index);
  devices.synchronize(device.index);
}

std::uint64_t device_waits() { return cuda_backend.devices.waits(); }

std::string to_string(Device device) { return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index); }

}  // namespace tapecache
