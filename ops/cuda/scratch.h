#pragma once

#include <cstdint>

#include "tapecache/core/allocator.h"
#include "tapecache/ops/cuda/devices.h"

namespace tapecache::kernels::cuda {

/// Device memory for the kernels of one call, from the device's allocator. It may go out of scope while they are
/// queued: what takes the memory next is queued after them.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t count)
      : device_(Device::cuda(current_device())),
        bytes_(static_cast<std::size_t>(count) * sizeof(T)),
        data_(static_cast<T*>(allocator(device_).allocate(bytes_))) {}
  ~Scratch() { allocator(device_).deallocate(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() const { return data_; }

 private:
  Device device_;
  std::size_t bytes_;
  T* data_;
};

}  // namespace tapecache::kernels::cuda
