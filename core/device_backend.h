#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/core/dtype.h"
#include "tapecache/core/tensor.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

struct CheckText;

/// What core asks of a kind of device. There are three objects of it: the CPU's (`core/cpu_backend.cpp`), and CUDA's,
/// which is that of `ops/cuda/` or, in a build without CUDA, that of `ops/no_cuda/`, where there is no device and
/// everything throws DeviceError but `count`, `waits` and what must not throw. Core asks `backend_of(device)` and need
/// not know which one answers.
///
/// Each function takes the index of the device; the CPU's ignore it. Work on a CUDA device is queued: only
/// `Copies::to_host`, `Fills::first_non_finite`, `Events::wait_on_host` and `Devices::synchronize` wait for it. A
/// failure of the device throws DeviceError naming the running op. All of these but `wait_on_host` also throw
/// ValueError where a check of values failed, which is then forgotten (`Checks`).
struct DeviceBackend {
  struct Devices {
    /// The number of devices that can be used.
    int (*count)();
    /// The name that the device has for itself.
    std::string (*name)(int device);
    /// Names and versions of the driver and the libraries by which the device is reached.
    std::vector<std::pair<std::string, std::string>> (*versions)(int device);
    /// Throws DeviceError naming `op`, the device asked for and how many there are, unless there is such a device.
    void (*require)(const char* op, int device);
    /// Waits until the device has done all that it was given.
    void (*synchronize)(int device);
    /// How often the host has waited for a device of this kind.
    std::uint64_t (*waits)();
  };

  /// Memory from which an `Allocator` cuts blocks.
  struct Memory {
    std::size_t alignment;  ///< of every block
    bool is_host;           ///< whether the host reads and writes it
    bool is_pinned;         ///< whether it is page-locked memory of the host
    /// Whether a large piece should hold many blocks, which is faster than one piece for each block.
    bool (*shares_segments)(int device);
    /// Returns nullptr where there is no room. This and `release` are in the order of the device's work: what is
    /// released may still be used by work that was queued before.
    void* (*allocate)(int device, std::size_t bytes);
    void (*release)(int device, void* memory) noexcept;
    /// Returns to the system what `release` has kept for the next `allocate`. Waits for the device.
    void (*trim)(int device) noexcept;
    void (*set_bytes)(int device, void* to, int byte, std::size_t bytes);
  };

  enum class Direction { kToDevice, kToHost };

  struct Copies {
    /// From ordinary memory of the host, which may be changed as soon as this returns.
    void (*from_host)(int device, void* to, const void* from, std::size_t bytes);
    void (*to_host)(int device, void* to, const void* from, std::size_t bytes);
    /// Between two places of the device's memory that do not overlap.
    void (*within)(int device, void* to, const void* from, std::size_t bytes);
    /// Queues a copy between a device and page-locked memory of the host, and returns its end. The copy comes after the
    /// device's work so far and after the copies queued before; what the device is given next runs at the same time.
    detail::CopyEvent (*async)(int device, Direction, void* to, const void* from, std::size_t bytes);
  };

  struct Fills {
    void (*fill)(int device, DType, void* to, double value, std::int64_t count);
    void (*convert)(int device, DType to_type, void* to, DType from_type, const void* from, std::int64_t count);
    /// Adds `from` to `to`, for floating types.
    void (*accumulate)(int device, DType, void* to, const void* from, std::int64_t count);
    /// The index of the first NaN or Inf among elements of a floating type, or -1.
    std::int64_t (*first_non_finite)(int device, DType, const void* elements, std::int64_t count);
  };

  /// Checks of the values in tensors (`core/value_checks.h`). The CPU's throw at once; a CUDA device remembers the
  /// first that fails until the host waits for it.
  struct Checks {
    /// Returns the indices as i64. `text` says what to throw for the first that is outside [0, limit); on a CUDA device
    /// such an index is 0 in the result.
    Tensor (*indices)(const Tensor& indices, std::int64_t limit, const std::function<CheckText()>& text);
    /// Requires a true in each row of bool [rows, columns].
    void (*rows)(const Tensor& flags, const CheckText& text);
  };

  /// An event is the end of a copy, or of other work, of a CUDA device.
  struct Events {
    /// Puts all that the device is given from now on after the event. The CPU waits for it.
    void (*wait)(int device, const detail::CopyEvent&);
    void (*wait_on_host)(const detail::CopyEvent&);
    bool (*is_done)(const detail::CopyEvent&) noexcept;
    /// The end of the work that the device was given so far.
    detail::CopyEvent (*end_of_work)(int device);
    /// As `wait`, for an event of a copy that this thread captures (`Graphs`). The CPU throws DeviceError: such a copy
    /// is made at each replay and not now.
    void (*wait_captured)(int device, const detail::CopyEvent&);
  };

  /// The work that a thread gave a device during a capture, to be given again.
  struct Graph;

  struct Graphs {
    /// From here on, what this thread gives the device is captured and not done. Waiting for the device throws
    /// DeviceError. Values copied from the host are captured as they are now, except those of `Copies::async`, which
    /// are read at each launch; the event that it returns is for `Events::wait_captured` alone, and only until the
    /// capture ends.
    void (*begin)(int device);
    Graph* (*end)(int device);
    /// Ends a capture without a result.
    void (*cancel)(int device) noexcept;
    void (*launch)(int device, const Graph*);
    /// Waits for the last launch.
    void (*destroy)(int device, Graph*) noexcept;
  };

  const Devices& devices;
  const Memory& memory;
  const Memory& pinned_memory;  ///< of the host, which devices of this kind copy from and to by themselves
  const Copies& copies;
  const Fills& fills;
  const Checks& checks;
  const Events& events;
  const Graphs* graphs;  ///< null where devices of this kind capture nothing
};

extern const DeviceBackend cpu_backend;
extern const DeviceBackend cuda_backend;

inline const DeviceBackend& backend_of(Device device) { return device.is_cpu() ? cpu_backend : cuda_backend; }

}  // namespace tapecache

#pragma GCC visibility pop
