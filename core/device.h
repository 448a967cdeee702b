#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/error.h"

namespace tapecache {

/// The place of a tensor: the host, or one CUDA device. What asks the device throws DeviceError where there is no such
/// device or this build does not support it.
struct Device {
  enum class Type { kCpu, kCuda };

  /// Byte counters of one device's allocator, for all threads together. An allocator keeps freed blocks for the next
  /// tensors.
  struct MemoryStats {
    std::size_t current = 0;  ///< bytes in use now
    std::size_t peak = 0;     ///< most bytes in use at once since the last reset_memory_peak()
    std::size_t cached = 0;   ///< free bytes held for reuse; on the host, untouched pages of them take no memory
    std::size_t limit = 0;    ///< the tightest limit in force on the bytes in use; 0: no limit
    std::uint64_t system_allocations = 0;  ///< number of requests to the system for memory
  };

  Type type = Type::kCpu;
  int index = 0;

  static constexpr Device cpu() { return {}; }
  static constexpr Device cuda(int index = 0) { return {Type::kCuda, index}; }

  bool is_cpu() const { return type == Type::kCpu; }
  bool operator==(const Device&) const = default;

  /// The name of a CUDA device ("emulated" for the emulator), or "cpu".
  std::string name() const;
  /// Names and versions of a CUDA device's capability, its driver, and the libraries in use. Throws DeviceError for the
  /// CPU too.
  std::vector<std::pair<std::string, std::string>> versions() const;
  /// Waits until the device has done all it was given. Throws DeviceError where some of its work failed, and ValueError
  /// where it found a wrong value, such as an index out of range, among what it was given.
  void synchronize() const;

  MemoryStats memory_stats() const;
  /// Starts a new peak measurement at the bytes in use now.
  void reset_memory_peak() const;
  /// Limits the bytes that may be in use at once; 0: no limit. Unused cached blocks are returned to the system before
  /// more memory is requested. A `MemoryLimit` in force may be tighter.
  void set_memory_limit(std::size_t bytes) const;
  /// Returns unused cached blocks to the system.
  void release_memory_cache() const;
  /// The counters of page-locked host memory (see Tensor::pinned).
  static MemoryStats pinned_memory_stats();

  /// The number of CUDA devices that can be used: 0 if this build has no CUDA backend or the machine has no device.
  static int cuda_count();
  /// How often this process has waited for a CUDA device. Shows whether a training loop holds up its device.
  static std::uint64_t waits();
  /// Lets f32 products on CUDA devices round their factors to TF32, which has 10 bits after the point, and so use
  /// tensor cores. Holds for the whole process; not allowed at first.
  static void allow_tf32(bool allowed);
  static bool tf32_allowed();
};

/// "cpu" or "cuda:0".
std::string to_string(Device device);

namespace detail {
class Allocator;
}

// The scopes below may overlap in any way between threads. They throw DeviceError as a device does.

/// Limits the bytes in use for a scope; 0: no limit. The tightest of all limits in force applies to every thread.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::size_t bytes, Device device = Device::cpu());
  ~MemoryLimit();
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  detail::Allocator& allocator_;
  std::size_t bytes_;
};

/// Measures the peak of the bytes in use over a scope.
class PeakMeter {
 public:
  explicit PeakMeter(Device device = Device::cpu());
  ~PeakMeter();
  PeakMeter(const PeakMeter&) = delete;
  PeakMeter& operator=(const PeakMeter&) = delete;

  /// Most bytes in use at once since the scope began.
  std::size_t peak() const;

 private:
  detail::Allocator& allocator_;
  std::size_t peak_ = 0;
};

}  // namespace tapecache
