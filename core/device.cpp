#include "tapecache/core/device.h"

#include <atomic>

#include <fmt/format.h>

#include "tapecache/core/device_backend.h"

namespace tapecache {

namespace {

std::atomic<bool> tf32{false};

}  // namespace

std::string Device::name() const {
  const DeviceBackend::Devices& devices = backend_of(*this).devices;
  devices.require("Device::name", index);
  return devices.name(index);
}

std::vector<std::pair<std::string, std::string>> Device::versions() const {
  const DeviceBackend::Devices& devices = backend_of(*this).devices;
  devices.require("Device::versions", index);
  return devices.versions(index);
}

void Device::synchronize() const {
  const DeviceBackend::Devices& devices = backend_of(*this).devices;
  devices.require("Device::synchronize", index);
  devices.synchronize(index);
}

int Device::cuda_count() { return cuda_backend.devices.count(); }

std::uint64_t Device::waits() { return cuda_backend.devices.waits(); }

void Device::allow_tf32(bool allowed) { tf32 = allowed; }

bool Device::tf32_allowed() { return tf32; }

std::string to_string(Device device) { return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index); }

}  // namespace tapecache
