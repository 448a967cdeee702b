#include "tapecache/core/tensor.h"

#include <mutex>
#include <utility>

#include "tapecache/core/allocator.h"
#include "tapecache/core/device_backend.h"
#include "tapecache/core/error.h"
#include "tapecache/core/graph_copies.h"

namespace tapecache::detail {

namespace {

/// Guards what storages know about asynchronous copies: two threads may read one storage at a time.
std::mutex copies;

Allocator& allocator_for(Device device, bool pinned) { return pinned ? pinned_allocator() : allocator(device); }

}  // namespace

Storage::Storage(std::size_t bytes, Device device, bool pinned)
    : bytes_(bytes), device_(device), pinned_(pinned && device.is_cpu() && Device::cuda_count() > 0) {
  data_ = static_cast<std::byte*>(allocator_for(device_, pinned_).allocate(bytes));
}

Storage::Storage(void* memory, std::size_t bytes, std::function<void()> release) noexcept
    : data_(static_cast<std::byte*>(memory)),
      bytes_(bytes),
      device_(Device::cpu()),
      pinned_(false),
      wrapped_(true),
      release_(std::move(release)) {}

Storage::~Storage() { free(); }

void Storage::free() noexcept {
  if (pinned_ && last_copy_) {
    pinned_allocator().deallocate_after(std::move(last_copy_), data_, bytes_);
    return;
  }
  try {
    wait_pending_copies(Use::kWrite);
  } catch (const DeviceError&) {
    // The device has failed and copies nothing more; whoever uses it next is told.
  }
  if (copying_.load(std::memory_order_acquire)) {
    const std::lock_guard lock(copies);
    if (captured_by_) captured_by_->forget(*this);
  }
  if (!wrapped_) allocator_for(device_, pinned_).deallocate(data_, bytes_);
  else if (release_) release_();
}

void Storage::wait_for_copies(Use use) {
  wait_for_captured_copies(use);
  wait_for_made_copies(use);
}

/// Waits for copies of the capture of this thread.
void Storage::wait_for_captured_copies(Use use) {
  GraphCopies* const captured = GraphCopies::current();
  if (!captured) return;
  CopyEvent awaited;
  {
    const std::lock_guard lock(copies);
    awaited = captured->last(*this, use);
  }
  if (!awaited) return;
  backend_of(device_).events.wait_captured(device_.index, awaited);
  const std::lock_guard lock(copies);
  captured->waited_for(*this, awaited);
}

void Storage::wait_for_made_copies(Use use) {
  CopyEvent awaited;
  {
    const std::lock_guard lock(copies);
    awaited = use == Use::kRead ? last_copy_into_ : last_copy_;
  }
  if (!awaited) return;
  backend_of(device_).events.wait(device_.index, awaited);
  const std::lock_guard lock(copies);
  if (last_copy_into_ == awaited || last_copy_ == awaited) last_copy_into_.reset();
  if (last_copy_ != awaited) return;
  last_copy_.reset();
  copying_.store(captured_by_ != nullptr, std::memory_order_release);
}

void Storage::end_capture(const GraphCopies& captured) {
  const std::lock_guard lock(copies);
  for (const auto& [storage, last] : captured.last_) {
    auto* const ended = const_cast<Storage*>(storage);
    ended->captured_by_ = nullptr;
    ended->copying_.store(ended->last_copy_ != nullptr, std::memory_order_release);
  }
}

void Storage::note(const CopyEvent& copy, int device, Use use) {
  const std::lock_guard lock(copies);
  last_copy_ = copy;
  if (use == Use::kWrite) last_copy_into_ = copy;
  copying_device_ = device;
  copying_.store(true, std::memory_order_release);
}

void Storage::note_captured(GraphCopies& captured, const std::shared_ptr<Storage>& storage, Use use,
                            const CopyEvent& copy) {
  const std::lock_guard lock(copies);
  captured.add(storage, use, copy);
  storage->captured_by_ = &captured;
  storage->copying_.store(true, std::memory_order_release);
}

void Storage::copy_async(const std::shared_ptr<Storage>& from, std::size_t from_offset,
                         const std::shared_ptr<Storage>& to, std::size_t to_offset, std::size_t bytes) {
  GraphCopies* const captured = GraphCopies::current();
  const bool to_device = from->device_.is_cpu();
  const int device = to_device ? to->device_.index : from->device_.index;
  if (captured) {
    // What is under way in the host's memory is the affair of each replay (`begin_replay`).
    if (to_device) to->wait_for_made_copies(Use::kWrite);
    else from->wait_for_made_copies(Use::kRead);
  } else {
    // A device makes its copies in order; those of another device have to be waited for.
    if (from->copying_device_ != device) from->wait_pending_copies(Use::kRead);
    if (to->copying_device_ != device) to->wait_pending_copies(Use::kWrite);
  }
  const CopyEvent copy = cuda_backend.copies.async(
      device, to_device ? DeviceBackend::Direction::kToDevice : DeviceBackend::Direction::kToHost,
      to->data_ + to_offset, from->data_ + from_offset, bytes);
  if (captured) {
    note_captured(*captured, from, Use::kRead, copy);
    note_captured(*captured, to, Use::kWrite, copy);
  } else {
    from->note(copy, device, Use::kRead);
    to->note(copy, device, Use::kWrite);
  }
  to->bump_version();
}

// Waits for copies out of the memory too, so that the end of the replay is the end of all copies.
void Storage::begin_replay(int device) {
  CopyEvent awaited;
  {
    const std::lock_guard lock(copies);
    awaited = last_copy_;
  }
  if (awaited) cuda_backend.events.wait(device, awaited);
}

void Storage::end_replay(int device, Use use, const CopyEvent& end) {
  note(end, device, use);
  if (use == Use::kWrite) bump_version();
}

void Storage::move_to(Device device) {
  if (device == device_) return;
  backend_of(device).devices.require("move_to", device.index);
  wait_pending_copies(Use::kWrite);
  Storage there(bytes_, device);
  if (device.is_cpu()) {
    backend_of(device_).copies.to_host(device_.index, there.data_, data_, bytes_);
  } else if (device_.is_cpu()) {
    backend_of(device).copies.from_host(device.index, there.data_, data_, bytes_);
    if (pinned_) device.synchronize();  // page-locked memory may still be read, and is released next
  } else {
    const Storage host(bytes_, Device::cpu());
    backend_of(device_).copies.to_host(device_.index, host.data_, data_, bytes_);
    backend_of(device).copies.from_host(device.index, there.data_, host.data_, bytes_);
  }
  exchange(there);
}

void Storage::swap_memory(Storage& other) {
  wait_pending_copies(Use::kWrite);
  other.wait_pending_copies(Use::kWrite);
  exchange(other);
}

void Storage::exchange(Storage& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(device_, other.device_);
  std::swap(pinned_, other.pinned_);
  std::swap(wrapped_, other.wrapped_);
  std::swap(release_, other.release_);
  bump_version();
  other.bump_version();
}

}  // namespace tapecache::detail
