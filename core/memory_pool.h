#pragma once

#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"

namespace tapecache {

/// Memory apart, for work that is replayed and must find its blocks as it left them: what a thread allocates in a `PoolScope`
/// comes from here and goes to nobody else, and blocks of before that are freed there stay taken, while the pool exists. Its
/// end returns all that is free; blocks still in use go back when they are freed.
class MemoryPool {
 public:
  /// Throws DeviceError where there is no such device.
  explicit MemoryPool(Device device);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

 private:
  friend class Allocator;

  Allocator& allocator_;
  Allocator::Pool* pool_;
};

/// Within it, blocks of the pool's device that this thread allocates are the pool's.
class PoolScope {
 public:
  explicit PoolScope(const MemoryPool& pool);
  ~PoolScope();
  PoolScope(const PoolScope&) = delete;
  PoolScope& operator=(const PoolScope&) = delete;

  /// This thread's; nullptr outside of any.
  static const MemoryPool* current();

 private:
  const MemoryPool* previous_;
};

}  // namespace tapecache
