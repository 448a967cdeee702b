#include "tapecache/core/storage.h"

#include <utility>

#include "tapecache/core/allocator.h"
#include "tapecache/core/device_backend.h"

namespace tapecache {

Storage::Storage(std::size_t bytes, Device device)
    : data_(static_cast<std::byte*>(allocator(device).allocate(bytes))), bytes_(bytes), device_(device) {}

Storage::~Storage() { allocator(device_).deallocate(data_, bytes_); }

void Storage::move_to(Device device) {
  if (device == device_) return;
  if (!device.is_cpu()) device_backend::require("move_to", device.index);
  Storage there(bytes_, device);
  if (device.is_cpu()) {
    device_backend::copy_to_host(device_.index, there.data_, data_, bytes_);
  } else if (device_.is_cpu()) {
    device_backend::copy_to_device(device.index, there.data_, data_, bytes_);
  } else {
    const Storage host(bytes_, Device::cpu());
    device_backend::copy_to_host(device_.index, host.data_, data_, bytes_);
    device_backend::copy_to_device(device.index, there.data_, host.data_, bytes_);
  }
  std::swap(data_, there.data_);
  std::swap(device_, there.device_);
  bump_version();
}

}  // namespace tapecache
