#include "tapecache/core/allocator.h"

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/error.h"
#include "tapecache/core/memory_pool.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/core/thread_context.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tapecache {

namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kSmallSegment = 1 << 20, kLargeSegment = 64 << 20;

// Blocks lie side by side, where the address sanitizer would see nothing wrong: each is followed by a gap.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kGuard = 64;
#else
constexpr std::size_t kGuard = 0;
#endif

[[noreturn]] void throw_out_of_memory(std::size_t requested, const Device::MemoryStats& stats, bool pinned) {
  const char* op = OpScope::current() ? OpScope::current() : "allocate";
  const std::string bound = stats.limit ? fmt::format("a limit of {} bytes", stats.limit) : "what the system gives";
  throw OutOfMemory(fmt::format("{}: out of memory: {} bytes{} requested with {} in use exceed {}", op, requested,
                                pinned ? " of page-locked memory" : "", stats.current, bound),
                    requested, stats.current, stats.limit);
}

/// One for each CUDA device; never destroyed.
const std::vector<std::unique_ptr<Allocator>>& cuda_allocators() {
  static const auto* all = [] {
    auto* allocators = new std::vector<std::unique_ptr<Allocator>>;
    for (int i = 0; i < cuda_backend.devices.count(); ++i) {
      allocators->push_back(std::make_unique<Allocator>(cuda_backend.memory, i));
    }
    return allocators;
  }();
  return *all;
}

}  // namespace

namespace detail {

Allocator::~Allocator() { release_cache_locked(); }

std::size_t Allocator::block_size(std::size_t bytes) {
  return std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
}

std::size_t Allocator::reserved() const {
  std::size_t sum = own_.reserved();
  for (const auto& pool : pools_) sum += pool->arenas.reserved();
  return sum;
}

/// Bytes that a new segment should have where blocks of at most `size` are to be cut from it.
std::size_t Allocator::segment_size(std::size_t size) const {
  if (!memory_.shares_segments(device_)) return size;
  if (size <= kSmallSegment / 16) return kSmallSegment;
  // The system backs the host's ordinary memory where it is touched, so that a large segment costs nothing there.
  const bool is_ordinary = memory_.is_host && !memory_.is_pinned;
  return std::max({size, kLargeSegment, is_ordinary ? own_.large.reserved() / 2 : 0});
}

void Allocator::set_accessible([[maybe_unused]] const void* begin, [[maybe_unused]] std::size_t bytes,
                               [[maybe_unused]] bool accessible) const noexcept {
#if defined(__SANITIZE_ADDRESS__)
  if (!memory_.is_host) return;
  if (accessible) ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
  else ASAN_POISON_MEMORY_REGION(begin, bytes);
#endif
}

/// False where the system has no room.
bool Allocator::add_segment(Arena& arena, std::size_t size) {
  const std::size_t held = reserved();
  std::size_t wanted = segment_size(size);
  if (stats_.limit) wanted = std::min(wanted, stats_.limit > held ? block_size(stats_.limit - held) : 0);
  for (const std::size_t bytes : {std::max(size, wanted), size}) {
    auto* const segment = static_cast<std::byte*>(memory_.allocate(device_, bytes));
    if (!segment) continue;
    ++stats_.system_allocations;
    try {
      arena.add_segment(segment, bytes);
    } catch (...) {
      memory_.release(device_, segment);
      throw;
    }
    set_accessible(segment, bytes, false);
    return true;
  }
  return false;
}

void Allocator::give_back(const InCopy& one) noexcept {
  try {
    cuda_backend.events.wait_on_host(one.copy);
  } catch (const DeviceError&) {
    // The device has failed and copies nothing more; whoever uses it next is told.
  }
  put_back(one.block, one.size);
}

/// Of the allocator's own blocks; null where none of this size are kept.
Allocator::Recent* Allocator::recent(std::size_t size) {
  return size <= kSmallest && pools_.empty() ? &recent_[size / kAlignment - 1] : nullptr;
}

/// Returns whether there were any.
bool Allocator::give_back_recent() noexcept {
  bool any = false;
  for (Recent& recent : recent_) {
    any = any || recent.count > 0;
    while (recent.count > 0) own_.small.give_back(recent.blocks[--recent.count]);
  }
  return any;
}

/// Makes a block free where it came from.
void Allocator::put_back(std::byte* block, std::size_t size) noexcept {
  set_accessible(block, size, false);
  if (Recent* const same = recent(size); same && same->count < same->blocks.size()) {
    same->blocks[same->count++] = block;
    return;
  }
  const auto from =
      std::find_if(pools_.begin(), pools_.end(), [&](const auto& pool) { return pool->arenas.of(size).holds(block); });
  if (from == pools_.end()) return own_.of(size).give_back(block);
  Pool& pool = **from;
  pool.arenas.of(size).give_back(block);
  if (--pool.taken == 0 && pool.ended) {
    release_free_segments(pool.arenas);
    pools_.erase(from);
  }
}

/// Frees the blocks whose copies have ended, or waits for them.
void Allocator::reclaim(bool wait) noexcept {
  std::erase_if(in_copy_, [&](const InCopy& one) {
    const bool free = wait || cuda_backend.events.is_done(one.copy);
    if (free) give_back(one);
    return free;
  });
}

/// nullptr where no block is free. A block of which a copy is under way is waited for before memory is asked for.
std::byte* Allocator::take_without_system(Arena& arena, std::size_t size) {
  reclaim(false);
  std::byte* block = arena.take(size);
  if (block || in_copy_.empty()) return block;
  reclaim(true);
  return arena.take(size);
}

/// nullptr where the system has no room.
std::byte* Allocator::take(Arenas& arenas, std::size_t size) {
  Arena& arena = arenas.of(size);
  const std::size_t alignment = memory_.alignment;
  const std::size_t room = (size + alignment - 1) / alignment * alignment + (memory_.is_host ? kGuard : 0);
  if (room < size) return nullptr;
  if (std::byte* block = take_without_system(arena, room)) return block;
  if (give_back_recent()) {
    if (std::byte* block = arena.take(room)) return block;
  }
  if (stats_.limit && reserved() > stats_.limit - size) release_cache_locked();
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
    throw_out_of_memory(bytes, stats_, memory_.is_pinned);
  }
  if (until_failure_ > 0 && --until_failure_ == 0) throw_out_of_memory(bytes, stats_, memory_.is_pinned);
  Pool* pool = active_pool();
  Recent* const same = pool ? nullptr : recent(size);
  std::byte* block = same && same->count > 0 ? same->blocks[--same->count] : take(pool ? pool->arenas : own_, size);
  if (!block) throw_out_of_memory(bytes, stats_, memory_.is_pinned);
  if (pool) ++pool->taken;
  stats_.current += size;
  stats_.peak = std::max(stats_.peak, stats_.current);
  for (std::size_t* peak : metered_peaks_) *peak = std::max(*peak, stats_.current);
  set_accessible(block, bytes, true);
  if (poison_) memory_.set_bytes(device_, block, 0xFF, bytes);
  return block;
}

void Allocator::deallocate(void* block, std::size_t bytes) noexcept {
  const std::size_t size = block_size(bytes);
  std::lock_guard lock(mutex_);
  auto* const freed = static_cast<std::byte*>(block);
  if (hold(freed, size)) return;
  stats_.current -= size;
  put_back(freed, size);
}

/// Keeps a block of the allocator's own taken that is freed in a pool's scope; false for any other.
bool Allocator::hold(std::byte* block, std::size_t size) noexcept {
  Pool* pool = active_pool();
  if (!pool || !own_.of(size).holds(block)) return false;
  try {
    pool->held.emplace_back(block, size);
  } catch (...) {
    // Without room to note it the block stays taken for good: it is not anybody's.
  }
  return true;
}

Allocator::Pool* Allocator::active_pool() const {
  const MemoryPool* pool = thread_context.pool;
  return pool && &pool->allocator_ == this ? pool->pool_ : nullptr;
}

Allocator::Pool* Allocator::begin_pool() {
  std::lock_guard lock(mutex_);
  return pools_.emplace_back(std::make_unique<Pool>()).get();
}

void Allocator::end_pool(Pool* pool) noexcept {
  std::lock_guard lock(mutex_);
  for (const auto& [block, size] : pool->held) {
    stats_.current -= size;
    set_accessible(block, size, false);
    own_.of(size).give_back(block);
  }
  pool->held.clear();
  pool->ended = true;
  release_free_segments(pool->arenas);
  if (pool->taken == 0) std::erase_if(pools_, [&](const auto& p) { return p.get() == pool; });
}

void Allocator::deallocate_after(CopyEvent copy, void* block, std::size_t bytes) noexcept {
  const std::size_t size = block_size(bytes);
  std::lock_guard lock(mutex_);
  stats_.current -= size;
  const InCopy one{std::move(copy), static_cast<std::byte*>(block), size};
  try {
    in_copy_.push_back(one);
  } catch (const std::bad_alloc&) {
    give_back(one);
  }
}

Device::MemoryStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  Device::MemoryStats stats = stats_;
  stats.cached = reserved() - stats.current;
  return stats;
}

void Allocator::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak = stats_.current;
}

void Allocator::set_limit(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  set_limit_ = bytes;
  find_limit_locked();
}

void Allocator::find_limit_locked() {
  stats_.limit = set_limit_;
  for (const std::size_t bytes : scoped_limits_) {
    if (bytes != 0 && (stats_.limit == 0 || bytes < stats_.limit)) stats_.limit = bytes;
  }
}

void Allocator::set_poison(bool on) {
  std::lock_guard lock(mutex_);
  poison_ = on;
}

std::uint64_t Allocator::set_failing(std::uint64_t allocation) {
  std::lock_guard lock(mutex_);
  return std::exchange(until_failure_, allocation);
}

void Allocator::release_cache() {
  std::lock_guard lock(mutex_);
  release_cache_locked();
  memory_.trim(device_);
}

void Allocator::release_free_segments(Arenas& arenas) noexcept {
  const auto release = [this](std::byte* segment, std::size_t bytes) {
    set_accessible(segment, bytes, true);
    memory_.release(device_, segment);
  };
  arenas.small.drop_free_segments(release);
  arenas.large.drop_free_segments(release);
}

}  // namespace detail

Allocator& allocator(Device device) {
  if (!device.is_cpu()) {
    cuda_backend.devices.require(OpScope::current() ? OpScope::current() : "allocate", device.index);
    return *cuda_allocators()[static_cast<std::size_t>(device.index)];
  }
  // Never destroyed: tensors in static storage may be freed after it would have been.
  static Allocator* cpu = new Allocator;
  return *cpu;
}

Allocator& pinned_allocator() {
  static Allocator* pinned = new Allocator(cuda_backend.pinned_memory);
  return *pinned;
}

}  // namespace tapecache
