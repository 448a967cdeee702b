#include "tapecache/core/storage.h"

#include "tapecache/core/allocator.h"

namespace tapecache {

Storage::Storage(std::size_t bytes, Device device)
    : data_(static_cast<std::byte*>(allocator(device).allocate(bytes))), bytes_(bytes), device_(device) {}

Storage::~Storage() { allocator(device_).deallocate(data_, bytes_); }

}  // namespace tapecache
