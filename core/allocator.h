#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "tapecache/core/device.h"

namespace tapecache {

/// Byte counters of one device's allocator.
struct MemoryStats {
  std::size_t current = 0;  ///< bytes in use now
  std::size_t peak = 0;     ///< most bytes in use at once since the last reset_peak()
  std::size_t cached = 0;   ///< bytes held free for reuse
  std::size_t limit = 0;    ///< settable limit of bytes in use; 0 is no limit
  std::uint64_t system_allocations = 0;  ///< times the system was asked for memory
};

/// A caching allocator: freed blocks are kept by size and handed out again, so a steady-state step asks the system
/// for nothing. Blocks are counted at their true (rounded) size. Thread-safe.
class Allocator {
 public:
  explicit Allocator(Device device = Device::cpu()) : device_(device) {}
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;
  ~Allocator();

  /// A block of at least `bytes` bytes, aligned to 64. Throws OutOfMemory naming the running op, the request and
  /// the limit.
  void* allocate(std::size_t bytes);
  /// Takes back a block that `allocate(bytes)` returned.
  void deallocate(void* block, std::size_t bytes) noexcept;

  MemoryStats stats() const;
  /// Starts a new peak measurement at the bytes in use now.
  void reset_peak();
  /// Takes into the present measurement a peak that was seen elsewhere.
  void raise_peak(std::size_t bytes);
  /// Sets the most bytes that may be in use at once; 0 is no limit. Cached blocks count as soon as they would push
  /// the total over it: they are returned to the system first.
  void set_limit(std::size_t bytes);
  /// Returns every cached block to the system.
  void release_cache();
  /// Fills each block handed out with bytes 0xFF, a NaN in every floating type, so that a kernel that does not
  /// write all of its output, or reads it first, is found out. For tests.
  void set_poison(bool on);

  /// The size a request is rounded to: a multiple of 64, at most an eighth above the request.
  static std::size_t block_size(std::size_t bytes);

 private:
  void release_cache_locked() noexcept;

  Device device_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;
  MemoryStats stats_;
  bool poison_ = false;
};

/// The allocator of a device. Throws DeviceError where this build has none for it.
Allocator& allocator(Device device = Device::cpu());

/// Sets a limit for a scope and restores the previous one.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::size_t bytes, Device device = Device::cpu());
  ~MemoryLimit();
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  Device device_;
  std::size_t previous_;
};

/// Measures the peak of a scope, and leaves the allocator's own measurement as if it were not there.
class PeakMeter {
 public:
  explicit PeakMeter(Device device = Device::cpu());
  ~PeakMeter();
  PeakMeter(const PeakMeter&) = delete;
  PeakMeter& operator=(const PeakMeter&) = delete;

  /// Most bytes in use at once since the scope began.
  std::size_t peak() const;

 private:
  Device device_;
  std::size_t outer_peak_;
};

}  // namespace tapecache
