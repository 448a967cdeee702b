#pragma once

#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/forward_context.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// Memory of its own for a captured step, which must find its blocks unchanged at each replay. Blocks that a thread
/// allocates while it uses the pool come from the pool and are given to nobody else; older blocks that it frees
/// meanwhile stay taken until the pool is destroyed. The destructor returns all free blocks; blocks still in use are
/// returned when they are freed.
class MemoryPool {
 public:
  /// Throws DeviceError where there is no such device.
  explicit MemoryPool(Device device);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// Makes this thread allocate from the pool on the pool's device, for as long as the returned object lives.
  ScopedValue<const MemoryPool*> use() const;

 private:
  friend class Allocator;

  Allocator& allocator_;
  Allocator::Pool* pool_;
};

}  // namespace tapecache

#pragma GCC visibility pop
