#include "tapecache/core/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/device_backend.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"

namespace tapecache {

namespace {

constexpr std::size_t kAlignment = 64;

[[noreturn]] void throw_out_of_memory(std::size_t requested, const MemoryStats& stats) {
  const char* op = OpScope::current() ? OpScope::current() : "allocate";
  const std::string bound = stats.limit ? fmt::format("a limit of {} bytes", stats.limit) : "what the system gives";
  throw OutOfMemory(fmt::format("{}: out of memory: {} bytes requested with {} in use exceed {}", op, requested,
                                stats.current, bound),
                    requested, stats.current, stats.limit);
}

/// nullptr where the system has no room.
void* system_allocate(Device device, std::size_t bytes) {
  return device.is_cpu() ? std::aligned_alloc(kAlignment, bytes) : device_backend::allocate(device.index, bytes);
}

void system_release(Device device, void* block) noexcept {
  if (device.is_cpu()) std::free(block);
  else device_backend::release(device.index, block);
}

void poison_bytes(Device device, void* block, std::size_t bytes) {
  constexpr int kPoison = 0xFF;
  if (device.is_cpu()) std::memset(block, kPoison, bytes);
  else device_backend::set_bytes(device.index, block, kPoison, bytes);
}

/// One for each CUDA device; never destroyed.
const std::vector<std::unique_ptr<Allocator>>& cuda_allocators() {
  static const auto* all = [] {
    auto* allocators = new std::vector<std::unique_ptr<Allocator>>;
    for (int i = 0; i < device_backend::count(); ++i) {
      allocators->push_back(std::make_unique<Allocator>(Device::cuda(i)));
    }
    return allocators;
  }();
  return *all;
}

}  // namespace

Allocator::~Allocator() { release_cache_locked(); }

std::size_t Allocator::block_size(std::size_t bytes) {
  if (bytes <= 8 * kAlignment) return std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  const std::size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

void* Allocator::allocate(std::size_t bytes) {
  const std::size_t size = block_size(bytes);
  std::lock_guard lock(mutex_);
  if (size < bytes || (stats_.limit && (size > stats_.limit || stats_.current > stats_.limit - size))) {
    throw_out_of_memory(bytes, stats_);
  }
  void* block = nullptr;
  if (auto found = free_.find(size); found != free_.end() && !found->second.empty()) {
    block = found->second.back();
    found->second.pop_back();
    stats_.cached -= size;
  } else {
    if (stats_.limit && stats_.current + stats_.cached > stats_.limit - size) release_cache_locked();
    block = system_allocate(device_, size);
    if (!block) {
      release_cache_locked();
      block = system_allocate(device_, size);
    }
    if (!block) throw_out_of_memory(bytes, stats_);
    ++stats_.system_allocations;
  }
  stats_.current += size;
  stats_.peak = std::max(stats_.peak, stats_.current);
  if (poison_) poison_bytes(device_, block, size);
  return block;
}

void Allocator::deallocate(void* block, std::size_t bytes) noexcept {
  const std::size_t size = block_size(bytes);
  std::lock_guard lock(mutex_);
  stats_.current -= size;
  try {
    free_[size].push_back(block);
    stats_.cached += size;
  } catch (...) {
    system_release(device_, block);
  }
}

MemoryStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void Allocator::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak = stats_.current;
}

void Allocator::raise_peak(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  stats_.peak = std::max(stats_.peak, bytes);
}

void Allocator::set_limit(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  stats_.limit = bytes;
}

void Allocator::set_poison(bool on) {
  std::lock_guard lock(mutex_);
  poison_ = on;
}

void Allocator::release_cache() {
  std::lock_guard lock(mutex_);
  release_cache_locked();
}

void Allocator::release_cache_locked() noexcept {
  for (auto& [size, blocks] : free_) {
    for (void* block : blocks) system_release(device_, block);
    blocks.clear();
  }
  stats_.cached = 0;
}

Allocator& allocator(Device device) {
  if (!device.is_cpu()) {
    device_backend::require(OpScope::current() ? OpScope::current() : "allocate", device.index);
    return *cuda_allocators()[static_cast<std::size_t>(device.index)];
  }
  // Never destroyed: tensors in static storage may be freed after it would have been.
  static Allocator* cpu = new Allocator;
  return *cpu;
}

MemoryLimit::MemoryLimit(std::size_t bytes, Device device)
    : device_(device), previous_(allocator(device).stats().limit) {
  allocator(device).set_limit(bytes);
}

MemoryLimit::~MemoryLimit() { allocator(device_).set_limit(previous_); }

PeakMeter::PeakMeter(Device device) : device_(device), outer_peak_(allocator(device).stats().peak) {
  allocator(device).reset_peak();
}

PeakMeter::~PeakMeter() { allocator(device_).raise_peak(outer_peak_); }

std::size_t PeakMeter::peak() const { return allocator(device_).stats().peak; }

}  // namespace tapecache
