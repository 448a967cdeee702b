#include "tapecache/core/memory_scopes.h"

#include <algorithm>
#include <mutex>
#include <vector>

namespace tapecache {

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
