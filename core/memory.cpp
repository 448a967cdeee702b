#include "tapecache/core/device.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "tapecache/core/allocator.h"

namespace tapecache {

MemoryStats memory_stats(Device device) { return allocator(device).stats(); }
MemoryStats pinned_memory_stats() { return pinned_allocator().stats(); }
void reset_memory_peak(Device device) { allocator(device).reset_peak(); }
void set_memory_limit(std::size_t bytes, Device device) { allocator(device).set_limit(bytes); }
void release_memory_cache(Device device) { allocator(device).release_cache(); }

MemoryLimit::MemoryLimit(std::size_t bytes, Device device) : allocator_(allocator(device)), bytes_(bytes) {
  const std::lock_guard lock(allocator_.mutex_);
  allocator_.scoped_limits_.push_back(bytes);
  allocator_.find_limit_locked();
}

MemoryLimit::~MemoryLimit() {
  const std::lock_guard lock(allocator_.mutex_);
  std::vector<std::size_t>& limits = allocator_.scoped_limits_;
  limits.erase(std::find(limits.begin(), limits.end(), bytes_));
  allocator_.find_limit_locked();
}

PeakMeter::PeakMeter(Device device) : allocator_(allocator(device)) {
  const std::lock_guard lock(allocator_.mutex_);
  allocator_.metered_peaks_.push_back(&peak_);
  peak_ = allocator_.stats_.current;
}

PeakMeter::~PeakMeter() {
  const std::lock_guard lock(allocator_.mutex_);
  std::erase(allocator_.metered_peaks_, &peak_);
}

std::size_t PeakMeter::peak() const {
  const std::lock_guard lock(allocator_.mutex_);
  return peak_;
}

}  // namespace tapecache
