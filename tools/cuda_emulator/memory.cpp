#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include <sanitizer/asan_interface.h>

#include "streams.h"

namespace emulation {

namespace {

// Small blocks lie in an arena that is closed to the host between kernels, so that code which reads device memory on
// the host crashes here as it would there. Opening it takes longer the more of it is in use; hence large blocks lie
// outside, each before a page that nobody may touch.
constexpr std::size_t kArenaBytes = std::size_t{64} << 20, kMaxSmallBytes = 64 << 10, kPage = 4096, kAlignment = 256;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

constexpr std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

struct Block {
  std::size_t bytes;
  void* mapped;  // null for one of the arena
  std::size_t mapped_bytes;
};

class Memory {
 public:
  void* allocate(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    void* p = bytes <= kMaxSmallBytes ? allocate_small(bytes) : nullptr;
    return p ? p : allocate_large(bytes);
  }

  bool release(void* p) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(static_cast<char*>(p));
    if (found == blocks_.end()) return false;
    const Block block = found->second;
    blocks_.erase(found);
    if (block.mapped) {
      munmap(block.mapped, block.mapped_bytes);
    } else {
      free_[round_up(block.bytes, kAlignment)].push_back(static_cast<char*>(p));
      ASAN_POISON_MEMORY_REGION(p, block.bytes);
    }
    return true;
  }

  bool holds(const void* p) {
    const std::lock_guard lock(mutex_);
    const char* at = static_cast<const char*>(p);
    auto after = blocks_.upper_bound(const_cast<char*>(at));
    if (after == blocks_.begin()) return false;
    const auto& [begin, block] = *std::prev(after);
    return at <= begin + block.bytes;
  }

  void open() {
    const std::lock_guard lock(mutex_);
    if (inside_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::lock_guard lock(mutex_);
    if (--inside_ == 0) protect(PROT_NONE);
  }

 private:
  void protect(int rights) {
    if (used_ > 0) mprotect(arena_, round_up(used_, kHugePage), rights);
  }

  void* allocate_small(std::size_t bytes) {
    const std::size_t size = round_up(bytes, kAlignment);
    char* p = nullptr;
    if (auto& reusable = free_[size]; !reusable.empty()) {
      p = reusable.back();
      reusable.pop_back();
    } else {
      if (!arena_) {
        std::size_t room = kArenaBytes + kHugePage;
        void* arena = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (arena == MAP_FAILED) return nullptr;
        // Each kernel opens and closes all that is used: of small pages that takes longer than the kernels do.
        std::align(kHugePage, kArenaBytes, arena, room);
        madvise(arena, kArenaBytes, MADV_HUGEPAGE);
        arena_ = static_cast<char*>(arena);
        ASAN_POISON_MEMORY_REGION(arena_, kArenaBytes);
      }
      if (used_ + size + kAlignment > kArenaBytes) return nullptr;
      p = arena_ + used_;
      used_ += size + kAlignment;  // with a gap that is never handed out
      if (inside_ > 0) protect(PROT_READ | PROT_WRITE);
    }
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    blocks_[p] = {bytes, nullptr, 0};
    return p;
  }

  void* allocate_large(std::size_t bytes) {
    const std::size_t whole = round_up(bytes, kPage), mapped_bytes = whole + kPage;
    if (whole < bytes) return nullptr;
    void* mapped = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    mprotect(static_cast<char*>(mapped) + whole, kPage, PROT_NONE);
    char* p = static_cast<char*>(mapped) + whole - round_up(bytes, kAlignment);
    blocks_[p] = {bytes, mapped, mapped_bytes};
    return p;
  }

  std::mutex mutex_;
  char* arena_ = nullptr;
  std::size_t used_ = 0;
  int inside_ = 0;
  std::map<char*, Block> blocks_;
  std::map<std::size_t, std::vector<char*>> free_;
};

/// Blocks of page-locked memory: the host's, and known.
class PinnedMemory {
 public:
  void* allocate(std::size_t bytes) {
    const std::size_t whole = round_up(bytes, kPage);
    if (whole < bytes) return nullptr;
    void* mapped = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    const std::lock_guard lock(mutex_);
    blocks_[static_cast<char*>(mapped)] = whole;
    return mapped;
  }

  bool release(void* p) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(static_cast<char*>(p));
    if (found == blocks_.end()) return false;
    munmap(p, found->second);
    blocks_.erase(found);
    return true;
  }

  bool holds(const void* p) {
    const std::lock_guard lock(mutex_);
    auto after = blocks_.upper_bound(static_cast<char*>(const_cast<void*>(p)));
    if (after == blocks_.begin()) return false;
    const auto& [begin, bytes] = *std::prev(after);
    return p <= begin + bytes;
  }

 private:
  std::mutex mutex_;
  std::map<char*, std::size_t> blocks_;
};

/// Never destroyed: tensors in static storage may be freed after it would have been.
Memory& memory() {
  static Memory* one = new Memory;
  return *one;
}

PinnedMemory& pinned_memory() {
  static PinnedMemory* one = new PinnedMemory;
  return *one;
}

}  // namespace

std::atomic<int> copies_before_failure = -1;

bool is_device_memory(const void* p) { return memory().holds(p); }
bool is_pinned_memory(const void* p) { return pinned_memory().holds(p); }

void fail_copy_after(int copies) { copies_before_failure = copies; }

DeviceAccess::DeviceAccess() { memory().open(); }
DeviceAccess::~DeviceAccess() { memory().close(); }

}  // namespace emulation

namespace {

/// With TAPECACHE_EMULATED_PAGEABLE=1 the device reads the host's pageable memory when a stream comes to it.
bool reads_pageable_memory() {
  const char* set = std::getenv("TAPECACHE_EMULATED_PAGEABLE");
  return set && *set == '1';
}

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  std::strcpy(properties->name, "emulated");
  properties->major = properties->minor = 0;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** block, std::size_t bytes) {
  if (const cudaError_t refused = emulation::refuse_unsafe_call(); refused != cudaSuccess) return refused;
  *block = emulation::memory().allocate(bytes);
  return *block ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void* block) {
  if (const cudaError_t refused = emulation::refuse_unsafe_call(); refused != cudaSuccess) return refused;
  emulation::run_all();
  return !block || emulation::memory().release(block) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const char* pools = std::getenv("TAPECACHE_EMULATED_POOLS");
  *value = attribute == cudaDevAttrMemoryPoolsSupported ? !pools || *pools != '0' : reads_pageable_memory();
  return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  if (properties->allocType != cudaMemAllocationTypePinned || properties->location.id != 0)
    return cudaErrorInvalidValue;
  static int only = 0;
  *pool = reinterpret_cast<cudaMemPool_t>(&only);
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  return pool && value ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t) { return pool ? cudaSuccess : cudaErrorInvalidValue; }

cudaError_t cudaMallocFromPoolAsync(void** block, std::size_t bytes, cudaMemPool_t pool, cudaStream_t) {
  return pool ? cudaMalloc(block, bytes) : cudaErrorInvalidValue;
}

cudaError_t cudaFreeAsync(void* block, cudaStream_t stream) {
  if (!emulation::is_device_memory(block)) return cudaErrorInvalidValue;
  return emulation::submit(stream,
                           [=] { return emulation::memory().release(block) ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaHostAlloc(void** block, std::size_t bytes, unsigned) {
  if (const cudaError_t refused = emulation::refuse_unsafe_call(); refused != cudaSuccess) return refused;
  *block = emulation::pinned_memory().allocate(bytes);
  return *block ? cudaSuccess : cudaErrorMemoryAllocation;
}

// Unlike CUDA's, it waits for no copy: who frees the memory of one that is still to come shall be found out.
cudaError_t cudaFreeHost(void* block) {
  if (const cudaError_t refused = emulation::refuse_unsafe_call(); refused != cudaSuccess) return refused;
  return !block || emulation::pinned_memory().release(block) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
  const bool to_pinned = emulation::is_pinned_memory(to), from_pinned = emulation::is_pinned_memory(from);
  if (to_device != emulation::is_device_memory(to) || from_device != emulation::is_device_memory(from)) {
    return cudaErrorInvalidValue;
  }
  // A graph would read pageable memory, which has another content or is gone, each time that it is launched.
  if (emulation::is_captured(stream) && !(from_device || from_pinned)) return cudaErrorStreamCaptureUnsupported;
  if (emulation::copies_before_failure >= 0 && emulation::copies_before_failure-- == 0) return cudaErrorLaunchFailure;
  const auto copy = [=](const void* source) {
    const bool there = to_device == emulation::is_device_memory(to) && to_pinned == emulation::is_pinned_memory(to);
    if (!there) return cudaErrorIllegalAddress;
    const emulation::DeviceAccess access;
    std::memmove(to, source, bytes);
    return cudaSuccess;
  };
  // The host's other memory is read before this returns, where the device does not read it by itself, and written
  // before it returns.
  const bool staged = !from_device && !from_pinned && !emulation::runs_at_once(stream) && !reads_pageable_memory();
  if (staged) {
    const auto* begin = static_cast<const char*>(from);
    return emulation::submit(stream,
                             [copy, values = std::vector<char>(begin, begin + bytes)] { return copy(values.data()); });
  }
  const cudaError_t status = emulation::submit(stream, [=] {
    const bool there =
        from_device == emulation::is_device_memory(from) && from_pinned == emulation::is_pinned_memory(from);
    return there ? copy(from) : cudaErrorIllegalAddress;
  });
  if (status != cudaSuccess || to_device || to_pinned) return status;
  return cudaStreamSynchronize(stream);
}

cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t stream) {
  if (!emulation::is_device_memory(to)) return cudaErrorInvalidValue;
  return emulation::submit(stream, [=] {
    if (!emulation::is_device_memory(to)) return cudaErrorIllegalAddress;
    const emulation::DeviceAccess access;
    std::memset(to, byte, bytes);
    return cudaSuccess;
  });
}
