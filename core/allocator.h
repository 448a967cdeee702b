#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "tapecache/core/arena.h"
#include "tapecache/core/device.h"
#include "tapecache/core/device_backend.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

class MemoryPool;

namespace detail {

/// A caching allocator: blocks are cut from large segments, and freed ones handed out again in any size, so a
/// steady-state step asks the system for nothing and takes little more than what is in use at its peak. Blocks are
/// counted at their true (rounded) size. Thread-safe.
class [[gnu::visibility("hidden")]] Allocator {
 public:
  /// Takes its segments from this memory of this device.
  explicit Allocator(const DeviceBackend::Memory& memory = cpu_backend.memory, int device = 0)
      : memory_(memory), device_(device) {}
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;
  ~Allocator();

  /// A block of at least `bytes` bytes, aligned to 64. Throws OutOfMemory naming the running op, the request and
  /// the limit.
  void* allocate(std::size_t bytes);
  /// Takes back a block that `allocate(bytes)` returned.
  void deallocate(void* block, std::size_t bytes) noexcept;
  /// The same where a copy may still be under way from or to the block: it is handed out again when that has ended.
  void deallocate_after(CopyEvent copy, void* block, std::size_t bytes) noexcept;

  Device::MemoryStats stats() const;
  /// Starts a new peak measurement at the bytes in use now.
  void reset_peak();
  /// Sets the most bytes that may be in use at once; 0 is no limit. Segments of which nothing is in use are returned to
  /// the system before a new one would push the bytes held over it. A `MemoryLimit` may be tighter.
  void set_limit(std::size_t bytes);
  /// Returns every segment of which nothing is in use to the system.
  void release_cache();
  /// Fills each block handed out with bytes 0xFF, a NaN in every floating type, so that a kernel that does not
  /// write all of its output, or reads it first, is found out. For tests.
  void set_poison(bool on);
  /// Lets the n-th allocation from now on (the first is 1) throw OutOfMemory, and then none; 0: none. Returns how many
  /// were left until the one that was to fail, 0 where it has. For tests.
  std::uint64_t set_failing(std::uint64_t allocation);

  /// The size a request is rounded to: a multiple of 64.
  static std::size_t block_size(std::size_t bytes);

 private:
  friend class tapecache::MemoryLimit;
  friend class tapecache::MemoryPool;
  friend class tapecache::PeakMeter;

  static constexpr std::size_t kSmall = 64 << 10;

  /// Small and large blocks are kept apart, so that a long-lived small block does not split a large free one.
  struct Arenas {
    Arena small, large;
    Arena& of(std::size_t size) { return size <= kSmall ? small : large; }
    std::size_t reserved() const { return small.reserved() + large.reserved(); }
  };
  /// The blocks of one size, at most kSmallest, that were freed last. They are handed out again without a search; for
  /// their arena they remain taken.
  struct Recent {
    std::array<std::byte*, 16> blocks;
    std::size_t count = 0;
  };
  static constexpr std::size_t kSmallest = 4 << 10;

  /// The memory of a MemoryPool.
  struct Pool {
    Arenas arenas;
    std::size_t taken = 0;                                 // blocks
    std::vector<std::pair<std::byte*, std::size_t>> held;  // blocks of the allocator's own, freed in the pool's scope
    bool ended = false;
  };

  struct InCopy {
    CopyEvent copy;
    std::byte* block;
    std::size_t size;
  };

  std::byte* take(Arenas & arenas, std::size_t size);
  std::byte* take_without_system(Arena & arena, std::size_t size);
  bool add_segment(Arena & arena, std::size_t size);
  std::size_t reserved() const;
  void release_free_segments(Arenas & arenas) noexcept;
  void release_cache_locked() noexcept {
    reclaim(true);
    give_back_recent();
    release_free_segments(own_);
  }
  Recent* recent(std::size_t size);
  bool give_back_recent() noexcept;
  void put_back(std::byte * block, std::size_t size) noexcept;
  bool hold(std::byte * block, std::size_t size) noexcept;
  void find_limit_locked();
  Pool* active_pool() const;
  Pool* begin_pool();
  void end_pool(Pool * pool) noexcept;
  void give_back(const InCopy&) noexcept;
  void reclaim(bool wait) noexcept;
  std::size_t segment_size(std::size_t size) const;
  /// Tells the address sanitizer, which knows the host's memory alone, whether a program may use it.
  void set_accessible(const void* begin, std::size_t bytes, bool accessible) const noexcept;

  const DeviceBackend::Memory& memory_;
  int device_;
  mutable std::mutex mutex_;
  Arenas own_;
  std::array<Recent, kSmallest / 64> recent_;  // by size in units of 64 bytes, less one
  std::vector<std::unique_ptr<Pool>> pools_;
  std::vector<InCopy> in_copy_;  // given back, but not yet free
  Device::MemoryStats stats_;
  std::size_t set_limit_ = 0;
  std::vector<std::size_t> scoped_limits_;   // in force, in no order
  std::vector<std::size_t*> metered_peaks_;  // of the PeakMeters there are
  bool poison_ = false;
  std::uint64_t until_failure_ = 0;  // allocations; 0: none fails
};

}  // namespace detail

using detail::Allocator;

/// The allocator of a device. Throws DeviceError where this build has none for it.
Allocator& allocator(Device device = Device::cpu());

/// The allocator of page-locked memory of the host, which is for tensors (see Tensor::pinned). Where there is no CUDA
/// device its allocate() throws DeviceError.
Allocator& pinned_allocator();

}  // namespace tapecache

#pragma GCC visibility pop
