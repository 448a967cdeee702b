#pragma once

#include <cstdint>

namespace tapecache::testing {

/// What memory is asked for: the elements of tensors, or any object of C++.
enum class Memory { kTensors, kObjects };

/// Lets one allocation of this process fail: the n-th from here on, with OutOfMemory or std::bad_alloc, on whatever thread it
/// is. Objects count only where this program has the `operator new` of failing_allocation.cpp.
class FailingAllocation {
 public:
  FailingAllocation(Memory memory, std::uint64_t number);
  ~FailingAllocation() { end(); }
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;

  /// From here on none fails. Says whether one had.
  bool end();

 private:
  Memory memory_;
  bool ended_ = false, failed_ = false;
};

}  // namespace tapecache::testing
