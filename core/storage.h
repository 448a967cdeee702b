#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tapecache/core/device.h"

namespace tapecache {

/// One block of a device's memory, shared by the tensors that view it and freed with the last of them.
class Storage {
 public:
  /// Throws OutOfMemory where the device's allocator cannot serve the request.
  Storage(std::size_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  /// Moves the contents to another device, which every tensor that views them then is on; counts as a change of them.
  /// Throws, before anything is changed, DeviceError or OutOfMemory.
  void move_to(Device device);

  /// Counts the times the contents were opened for writing.
  std::uint64_t version() const { return version_; }
  void bump_version() { ++version_; }

 private:
  std::byte* data_;
  std::size_t bytes_;
  Device device_;
  std::uint64_t version_ = 0;
};

}  // namespace tapecache
