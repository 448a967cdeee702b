#pragma once

#include <cstddef>

#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"

/// Both count what every thread has in use on a device. Scopes of several threads may overlap as they like.
namespace tapecache {

/// Limits the bytes in use within a scope; 0 is no limit. Of all limits in force the tightest counts, for every thread.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::size_t bytes, Device device = Device::cpu());
  ~MemoryLimit();
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  Allocator& allocator_;
  std::size_t bytes_;
};

/// Measures the peak of a scope.
class PeakMeter {
 public:
  explicit PeakMeter(Device device = Device::cpu());
  ~PeakMeter();
  PeakMeter(const PeakMeter&) = delete;
  PeakMeter& operator=(const PeakMeter&) = delete;

  /// Most bytes in use at once since the scope began.
  std::size_t peak() const;

 private:
  Allocator& allocator_;
  std::size_t peak_ = 0;
};

}  // namespace tapecache
