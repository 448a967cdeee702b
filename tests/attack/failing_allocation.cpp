#include "failing_allocation.h"

#include <atomic>
#include <cstdlib>
#include <new>

#include "tapecache/core/allocator.h"

namespace {

std::atomic<std::int64_t> until_failure{0};  // calls of operator new; 0 and below: none fails

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (until_failure.load(std::memory_order_relaxed) > 0 && until_failure.fetch_sub(1, std::memory_order_relaxed) == 1) {
    throw std::bad_alloc();
  }
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* const block = std::aligned_alloc(alignment, bytes == 0 ? alignment : bytes);
  if (!block) throw std::bad_alloc();
  return block;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) { return allocate(bytes, static_cast<std::size_t>(alignment)); }
void* operator new[](std::size_t bytes, std::align_val_t alignment) { return allocate(bytes, static_cast<std::size_t>(alignment)); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }

namespace tapecache::testing {

FailingAllocation::FailingAllocation(Memory memory, std::uint64_t number) : memory_(memory) {
  if (memory_ == Memory::kTensors) allocator().set_failing(number);
  else until_failure = static_cast<std::int64_t>(number);
}

bool FailingAllocation::end() {
  if (ended_) return failed_;
  ended_ = true;
  failed_ = memory_ == Memory::kTensors ? allocator().set_failing(0) == 0 : until_failure.exchange(0) <= 0;
  return failed_;
}

}  // namespace tapecache::testing
