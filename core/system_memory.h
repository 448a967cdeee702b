#pragma once

#include <cstddef>

#include "tapecache/core/device.h"

/// Where an allocator takes its segments from: the host's memory, or a device's.
namespace tapecache::system_memory {

/// What every block of a device begins at a multiple of.
std::size_t alignment(Device device);

/// Bytes that a new segment should have where blocks of at most `size` are to be cut from it and `reserved` bytes are held
/// already.
std::size_t segment_size(Device device, std::size_t size, std::size_t reserved);

/// nullptr where there is no room.
std::byte* allocate(Device device, std::size_t bytes);
void release(Device device, std::byte* segment) noexcept;

void set_bytes(Device device, void* to, int byte, std::size_t bytes);

}  // namespace tapecache::system_memory
