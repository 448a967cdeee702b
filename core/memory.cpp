#include "tapecache/core/device.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "tapecache/core/allocator.h"

namespace tapecache {

Device::MemoryStats Device::memory_stats() const { return allocator(*this).stats(); }
void Device::reset_memory_peak() const { allocator(*this).reset_peak(); }
void Device::set_memory_limit(std::size_t bytes) const { allocator(*this).set_limit(bytes); }
void Device::release_memory_cache() const { allocator(*this).release_cache(); }
Device::MemoryStats Device::pinned_memory_stats() { return pinned_allocator().stats(); }

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
