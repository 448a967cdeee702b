#pragma once

#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/core/forward_context.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// Memory apart, for work that is replayed and must find its blocks as it left them: what a thread allocates while it
/// is in use comes from here and goes to nobody else, and blocks of before that are freed there stay taken, while the
/// pool exists. Its end returns all that is free; blocks still in use go back when they are freed.
class MemoryPool {
 public:
  /// Throws DeviceError where there is no such device.
  explicit MemoryPool(Device device);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// Blocks of the pool's device that this thread allocates are the pool's, until the end of what this returns.
  ScopedValue<const MemoryPool*> use() const;

 private:
  friend class Allocator;

  Allocator& allocator_;
  Allocator::Pool* pool_;
};

}  // namespace tapecache

#pragma GCC visibility pop
