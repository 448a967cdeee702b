#pragma once

#include <cstddef>

#include "tapecache/core/device.h"

/// Where an allocator takes its segments from: the host's memory, or a device's.
namespace tapecache::system_memory {

struct Place {
  Device device;
  bool pinned = false;  ///< page-locked, of the host
};

#pragma GCC visibility push(hidden)

/// What every block of a place begins at a multiple of.
std::size_t alignment(Place place);

/// Bytes that a new segment should have where blocks of at most `size` are to be cut from it and `reserved` bytes are
/// held already.
std::size_t segment_size(Place place, std::size_t size, std::size_t reserved);

/// nullptr where there is no room.
std::byte* allocate(Place place, std::size_t bytes);
void release(Place place, std::byte* segment) noexcept;

/// Returns to the system what release() keeps back.
void trim(Place place) noexcept;

void set_bytes(Place place, void* to, int byte, std::size_t bytes);

#pragma GCC visibility pop

}  // namespace tapecache::system_memory
