#include "failing_allocation.h"

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tapecache/core/allocator.h"

namespace {

std::atomic<std::int64_t> until_failure{0};           // calls of operator new; 0 and below: none fails
std::atomic<std::int64_t> in_use{0}, most_in_use{0};  // bytes

thread_local bool failed_on_this_thread = false;

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (until_failure.load(std::memory_order_relaxed) > 0 && until_failure.fetch_sub(1, std::memory_order_relaxed) == 1) {
    failed_on_this_thread = true;
    throw std::bad_alloc();
  }
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* const block = std::aligned_alloc(alignment, bytes == 0 ? alignment : bytes);
  if (!block) throw std::bad_alloc();
  const auto size = static_cast<std::int64_t>(::malloc_usable_size(block));
  const std::int64_t now = in_use.fetch_add(size, std::memory_order_relaxed) + size;
  std::int64_t most = most_in_use.load(std::memory_order_relaxed);
  while (now > most && !most_in_use.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
  }
  return block;
}

void release(void* block) {
  if (block) in_use.fetch_sub(static_cast<std::int64_t>(::malloc_usable_size(block)), std::memory_order_relaxed);
  std::free(block);
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
// Where these were not replaced, a sanitizer's own would be paired with the others here.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new[](std::size_t bytes, const std::nothrow_t& nothrow) noexcept { return operator new(bytes, nothrow); }
void operator delete(void* block) noexcept { release(block); }
void operator delete[](void* block) noexcept { release(block); }
void operator delete(void* block, std::size_t) noexcept { release(block); }
void operator delete[](void* block, std::size_t) noexcept { release(block); }
void operator delete(void* block, std::align_val_t) noexcept { release(block); }
void operator delete[](void* block, std::align_val_t) noexcept { release(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { release(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { release(block); }

namespace tapecache::testing {

const char* to_string(Memory memory) {
  switch (memory) {
    case Memory::kTensors:
      return "tensors";
    case Memory::kObjects:
      return "objects";
    case Memory::kTensorsWithinLimit:
      return "tensors within a limit";
  }
  return "unknown";
}

FailingAllocation::FailingAllocation(Memory memory, std::uint64_t number) : memory_(memory) {
  switch (memory_) {
    case Memory::kTensors:
      allocator().set_failing(number);
      break;
    case Memory::kObjects:
      until_failure = static_cast<std::int64_t>(number);
      break;
    case Memory::kTensorsWithinLimit:
      limit_.emplace(allocator().stats().current + static_cast<std::size_t>(number) * Allocator::block_size(1));
      break;
  }
}

bool& FailingAllocation::failed_here() { return failed_on_this_thread; }

bool FailingAllocation::end() {
  if (ended_) return failed_;
  ended_ = true;
  if (memory_ == Memory::kTensors) failed_ = allocator().set_failing(0) == 0;
  if (memory_ == Memory::kObjects) failed_ = until_failure.exchange(0) <= 0;
  limit_.reset();
  return failed_;
}

std::int64_t peak_of_objects(const std::function<void()>& action) {
  const std::int64_t before = in_use;
  most_in_use = before;
  action();
  return most_in_use - before;
}

}  // namespace tapecache::testing
