#include "tapecache/core/allocator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tapecache {

namespace {

constexpr std::size_t kAlignment = 64;

// Blocks lie side by side, where the address sanitizer sees nothing wrong: it is told what is in use, and is left a gap.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kGuard = 64;
void set_accessible(const void* begin, std::size_t bytes, bool accessible) {
  if (accessible) ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
  else ASAN_POISON_MEMORY_REGION(begin, bytes);
}
#else
constexpr std::size_t kGuard = 0;
void set_accessible(const void*, std::size_t, bool) {}
#endif

/// Large pages spare products, whose packing reads rows that are small pages apart, look-ups of addresses. A hint: whether
/// it is taken does not matter.
void advise_huge_pages([[maybe_unused]] void* begin, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  constexpr std::size_t kHugePage = 2 << 20;
  std::size_t room = bytes;
  void* aligned = begin;
  if (std::align(kHugePage, kHugePage, aligned, room)) madvise(aligned, room / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

[[noreturn]] void throw_out_of_memory(std::size_t requested, const MemoryStats& stats) {
  const char* op = OpScope::current() ? OpScope::current() : "allocate";
  const std::string bound = stats.limit ? fmt::format("a limit of {} bytes", stats.limit) : "what the system gives";
  throw OutOfMemory(fmt::format("{}: out of memory: {} bytes requested with {} in use exceed {}", op, requested,
                                stats.current, bound),
                    requested, stats.current, stats.limit);
}

}  // namespace

Allocator::~Allocator() { release_cache_locked(); }

std::size_t Allocator::block_size(std::size_t bytes) {
  return std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
}

/// False where the system has no room.
bool Allocator::add_segment(Arena& arena, std::size_t size) {
  constexpr std::size_t kSmallSegment = 1 << 20, kLargeSegment = 64 << 20;
  // The system backs a segment with memory where it is touched, so a large one costs nothing.
  std::size_t wanted = size <= kSmall ? kSmallSegment : std::max(kLargeSegment, large_.reserved() / 2);
  const std::size_t held = small_.reserved() + large_.reserved();
  if (stats_.limit) wanted = std::min(wanted, stats_.limit > held ? stats_.limit - held : 0);
  for (const std::size_t bytes : {std::max(size, block_size(wanted)), size}) {
    auto* segment = static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes));
    if (!segment) continue;
    ++stats_.system_allocations;
    try {
      arena.add_segment(segment, bytes);
    } catch (...) {
      std::free(segment);
      throw;
    }
    advise_huge_pages(segment, bytes);
    set_accessible(segment, bytes, false);
    return true;
  }
  return false;
}

/// nullptr where the system has no room.
std::byte* Allocator::take(std::size_t size) {
  Arena& arena = arena_for(size);
  const std::size_t room = size + kGuard;
  if (room < size) return nullptr;
  if (std::byte* block = arena.take(room)) return block;
  if (stats_.limit && small_.reserved() + large_.reserved() > stats_.limit - size) release_cache_locked();
  if (!add_segment(arena, room)) {
    release_cache_locked();
    if (!add_segment(arena, room)) return nullptr;
  }
  return arena.take(room);
}

void* Allocator::allocate(std::size_t bytes) {
  const std::size_t size = block_size(bytes);
  std::lock_guard lock(mutex_);
  if (size < bytes || (stats_.limit && (size > stats_.limit || stats_.current > stats_.limit - size))) {
    throw_out_of_memory(bytes, stats_);
  }
  std::byte* block = take(size);
  if (!block) throw_out_of_memory(bytes, stats_);
  stats_.current += size;
  stats_.peak = std::max(stats_.peak, stats_.current);
  set_accessible(block, bytes, true);
  if (poison_) std::memset(block, 0xFF, bytes);
  return block;
}

void Allocator::deallocate(void* block, std::size_t bytes) noexcept {
  const std::size_t size = block_size(bytes);
  std::lock_guard lock(mutex_);
  stats_.current -= size;
  set_accessible(block, size, false);
  arena_for(size).give_back(static_cast<std::byte*>(block));
}

MemoryStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  MemoryStats stats = stats_;
  stats.cached = small_.reserved() + large_.reserved() - stats.current;
  return stats;
}

void Allocator::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak = stats_.current;
}

void Allocator::raise_peak(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  stats_.peak = std::max(stats_.peak, bytes);
}

void Allocator::set_limit(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  stats_.limit = bytes;
}

void Allocator::set_poison(bool on) {
  std::lock_guard lock(mutex_);
  poison_ = on;
}

void Allocator::release_cache() {
  std::lock_guard lock(mutex_);
  release_cache_locked();
}

void Allocator::release_cache_locked() noexcept {
  const auto release = [](std::byte* segment, std::size_t bytes) {
    set_accessible(segment, bytes, true);
    std::free(segment);
  };
  small_.drop_free_segments(release);
  large_.drop_free_segments(release);
}

Allocator& allocator(Device device) {
  if (!device.is_cpu()) {
    throw DeviceError(fmt::format("allocator: {} is not available: this build has no CUDA backend", to_string(device)));
  }
  // Never destroyed: tensors in static storage may be freed after it would have been.
  static Allocator* cpu = new Allocator;
  return *cpu;
}

MemoryLimit::MemoryLimit(std::size_t bytes, Device device)
    : device_(device), previous_(allocator(device).stats().limit) {
  allocator(device).set_limit(bytes);
}

MemoryLimit::~MemoryLimit() { allocator(device_).set_limit(previous_); }

PeakMeter::PeakMeter(Device device) : device_(device), outer_peak_(allocator(device).stats().peak) {
  allocator(device).reset_peak();
}

PeakMeter::~PeakMeter() { allocator(device_).raise_peak(outer_peak_); }

std::size_t PeakMeter::peak() const { return allocator(device_).stats().peak; }

}  // namespace tapecache
