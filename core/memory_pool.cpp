#include "tapecache/core/memory_pool.h"

namespace tapecache {

namespace {
thread_local const MemoryPool* active = nullptr;
}

MemoryPool::MemoryPool(Device device) : allocator_(allocator(device)), pool_(allocator_.begin_pool()) {}

MemoryPool::~MemoryPool() { allocator_.end_pool(pool_); }

PoolScope::PoolScope(const MemoryPool& pool) : previous_(active) { active = &pool; }

PoolScope::~PoolScope() { active = previous_; }

const MemoryPool* PoolScope::current() { return active; }

}  // namespace tapecache
