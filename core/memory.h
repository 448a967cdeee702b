#pragma once

#include <cstddef>
#include <cstdint>

#include "tapecache/core/device.h"

/// Memory of tensors, of every thread together. Each device has a caching allocator, which keeps what was freed for the
/// next tensor.
namespace tapecache {

class Allocator;

/// Byte counters of one device's allocator.
struct MemoryStats {
  std::size_t current = 0;  ///< bytes in use now
  std::size_t peak = 0;     ///< most bytes in use at once since the last reset_peak()
  std::size_t cached = 0;  ///< bytes held free for reuse; of the host's, many were never touched and take no memory yet
  std::size_t limit = 0;   ///< the tightest limit of bytes in use that is in force; 0 is no limit
  std::uint64_t system_allocations = 0;  ///< times the system was asked for memory
};

/// Of a device's memory. Throws DeviceError where this build has none for it, as the rest here does.
MemoryStats memory_stats(Device device = Device::cpu());
/// Of page-locked memory of the host (see Tensor::pinned).
MemoryStats pinned_memory_stats();
/// Starts a new peak measurement at the bytes in use now.
void reset_memory_peak(Device device = Device::cpu());
/// Sets the most bytes that may be in use at once; 0 is no limit. Memory of which nothing is in use is returned to the
/// system before more would be asked of it. A `MemoryLimit` may be tighter.
void set_memory_limit(std::size_t bytes, Device device = Device::cpu());
/// Returns memory of which nothing is in use to the system.
void release_memory_cache(Device device = Device::cpu());

// Scopes of several threads may overlap as they like.

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
