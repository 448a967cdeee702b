#include "tapecache/core/system_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "tapecache/core/device_backend.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tapecache::system_memory {

namespace {

constexpr std::size_t kHostAlignment = 64, kDeviceAlignment = 256;
constexpr std::size_t kSmallSegment = 1 << 20, kLargeSegment = 64 << 20;

/// Large pages spare products, whose packing reads rows that are small pages apart, look-ups of addresses. A hint: whether
/// it is taken does not matter.
void advise_huge_pages([[maybe_unused]] void* begin, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  constexpr std::size_t kHugePage = 2 << 20;
  if (std::align(kHugePage, kHugePage, begin, bytes)) madvise(begin, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

}  // namespace

std::size_t alignment(Device device) { return device.is_cpu() ? kHostAlignment : kDeviceAlignment; }

std::size_t segment_size(Device device, std::size_t size, std::size_t reserved) {
  if (!device.is_cpu() && !device_backend::shares_segments(device.index)) return size;
  if (size <= kSmallSegment / 16) return kSmallSegment;
  // The host backs a segment with memory where it is touched, so that there a large one costs nothing.
  return std::max({size, kLargeSegment, device.is_cpu() ? reserved / 2 : 0});
}

std::byte* allocate(Device device, std::size_t bytes) {
  if (!device.is_cpu()) return static_cast<std::byte*>(device_backend::allocate(device.index, bytes));
  auto* segment = static_cast<std::byte*>(std::aligned_alloc(kHostAlignment, bytes));
  if (segment) advise_huge_pages(segment, bytes);
  return segment;
}

void release(Device device, std::byte* segment) noexcept {
  if (device.is_cpu()) std::free(segment);
  else device_backend::release(device.index, segment);
}

void set_bytes(Device device, void* to, int byte, std::size_t bytes) {
  if (device.is_cpu()) std::memset(to, byte, bytes);
  else device_backend::set_bytes(device.index, to, byte, bytes);
}

}  // namespace tapecache::system_memory
