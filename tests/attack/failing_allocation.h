#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "tapecache/core/device.h"

namespace tapecache::testing {

/// What memory is asked for: the elements of tensors, or any object of C++. Or the elements of tensors within a limit.
enum class Memory { kTensors, kObjects, kTensorsWithinLimit };

const char* to_string(Memory memory);

/// Lets one allocation of this process fail: the n-th from here on, with OutOfMemory or std::bad_alloc, on whatever
/// thread it is. Within a limit all fail that do not fit into n of the smallest blocks beside what is in use. Objects
/// count only where this program has the `operator new` of failing_allocation.cpp.
class FailingAllocation {
 public:
  FailingAllocation(Memory memory, std::uint64_t number);
  ~FailingAllocation() { end(); }
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;

  /// From here on none fails. Says whether one had; of a limit, false.
  bool end();

  /// Set on a thread when an allocation of an object fails there.
  static bool& failed_here();

 private:
  Memory memory_;
  bool ended_ = false, failed_ = false;
  std::optional<MemoryLimit> limit_;
};

/// The most bytes of objects that are in use at once while the action runs, beside those before it.
std::int64_t peak_of_objects(const std::function<void()>& action);

}  // namespace tapecache::testing
