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

/// Large pages spare products, whose packing reads rows that are small pages apart, look-ups of addresses. A hint:
/// whether it is taken does not matter.
void advise_huge_pages([[maybe_unused]] void* begin, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  constexpr std::size_t kHugePage = 2 << 20;
  if (std::align(kHugePage, kHugePage, begin, bytes)) madvise(begin, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

}  // namespace

std::size_t alignment(Place place) { return place.device.is_cpu() ? kHostAlignment : kDeviceAlignment; }

std::size_t segment_size(Place place, std::size_t size, std::size_t reserved) {
  if (!place.device.is_cpu() && !device_backend::shares_segments(place.device.index)) return size;
  if (size <= kSmallSegment / 16) return kSmallSegment;
  // The host backs a segment with memory where it is touched, so that there a large one costs nothing.
  return std::max({size, kLargeSegment, place.device.is_cpu() && !place.pinned ? reserved / 2 : 0});
}

std::byte* allocate(Place place, std::size_t bytes) {
  if (!place.device.is_cpu()) return static_cast<std::byte*>(device_backend::allocate(place.device.index, bytes));
  if (place.pinned) return static_cast<std::byte*>(device_backend::allocate_pinned(bytes));
  auto* segment = static_cast<std::byte*>(std::aligned_alloc(kHostAlignment, bytes));
  if (segment) advise_huge_pages(segment, bytes);
  return segment;
}

void release(Place place, std::byte* segment) noexcept {
  if (!place.device.is_cpu()) device_backend::release(place.device.index, segment);
  else if (place.pinned) device_backend::release_pinned(segment);
  else std::free(segment);
}

void trim(Place place) noexcept {
  if (!place.device.is_cpu()) device_backend::trim(place.device.index);
}

void set_bytes(Place place, void* to, int byte, std::size_t bytes) {
  if (place.device.is_cpu()) std::memset(to, byte, bytes);
  else device_backend::set_bytes(place.device.index, to, byte, bytes);
}

}  // namespace tapecache::system_memory
