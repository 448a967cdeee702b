#include "tapecache/core/memory_pool.h"

#include "tapecache/core/thread_context.h"

namespace tapecache {

MemoryPool::MemoryPool(Device device) : allocator_(allocator(device)), pool_(allocator_.begin_pool()) {}

MemoryPool::~MemoryPool() { allocator_.end_pool(pool_); }

ScopedValue<const MemoryPool*> MemoryPool::use() const {
  return ScopedValue<const MemoryPool*>(detail::thread_context.pool, this);
}

}  // namespace tapecache
