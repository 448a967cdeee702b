#include "tapecache/core/tensor.h"

#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/graph_copies.h"
#include "tapecache/core/op_scope.h"

namespace tapecache {

namespace {

/// Guards the copies that storages know of: two threads may come to read one.
std::mutex copies;

Allocator& allocator_for(Device device, bool pinned) { return pinned ? pinned_allocator() : allocator(device); }

}  // namespace

Storage::Storage(std::size_t bytes, Device device, bool pinned)
    : bytes_(bytes), device_(device), pinned_(pinned && device.is_cpu() && device_backend::count() > 0) {
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

void Storage::settle_copies(Use use) {
  settle_recorded(use);
  settle_made(use);
}

/// Of the copies that this thread records.
void Storage::settle_recorded(Use use) {
  GraphCopies* const recording = GraphCopies::current();
  if (!recording) return;
  device_backend::CopyEvent awaited;
  {
    const std::lock_guard lock(copies);
    awaited = recording->last(*this, use);
  }
  if (!awaited) return;
  if (device_.is_cpu()) {
    throw DeviceError(fmt::format("{}: waits for a copy that is only recorded, which a captured step may not",
                                  OpScope::current() ? OpScope::current() : "tensor"));
  }
  device_backend::wait_recorded(device_.index, awaited);
  const std::lock_guard lock(copies);
  recording->waited_for(*this, awaited);
}

void Storage::settle_made(Use use) {
  device_backend::CopyEvent awaited;
  {
    const std::lock_guard lock(copies);
    awaited = use == Use::kRead ? last_copy_into_ : last_copy_;
  }
  if (!awaited) return;
  if (device_.is_cpu()) device_backend::wait(awaited);
  else device_backend::wait_on_device(device_.index, awaited);
  const std::lock_guard lock(copies);
  if (last_copy_into_ == awaited || last_copy_ == awaited) last_copy_into_.reset();
  if (last_copy_ != awaited) return;
  last_copy_.reset();
  copying_.store(captured_by_ != nullptr, std::memory_order_release);
}

void Storage::end_capture(const GraphCopies& recorded) {
  const std::lock_guard lock(copies);
  for (const auto& [storage, last] : recorded.last_) {
    auto* const ended = const_cast<Storage*>(storage);
    ended->captured_by_ = nullptr;
    ended->copying_.store(ended->last_copy_ != nullptr, std::memory_order_release);
  }
}

void Storage::note(const device_backend::CopyEvent& copy, int device, Use use) {
  const std::lock_guard lock(copies);
  last_copy_ = copy;
  if (use == Use::kWrite) last_copy_into_ = copy;
  copying_device_ = device;
  copying_.store(true, std::memory_order_release);
}

void Storage::note_captured(GraphCopies& recording, const std::shared_ptr<Storage>& storage, Use use,
                            const device_backend::CopyEvent& copy) {
  const std::lock_guard lock(copies);
  recording.add(storage, use, copy);
  storage->captured_by_ = &recording;
  storage->copying_.store(true, std::memory_order_release);
}

void Storage::copy_async(const std::shared_ptr<Storage>& from, std::size_t from_offset,
                         const std::shared_ptr<Storage>& to, std::size_t to_offset, std::size_t bytes) {
  GraphCopies* const recording = GraphCopies::current();
  const bool to_device = from->device_.is_cpu();
  const int device = to_device ? to->device_.index : from->device_.index;
  if (recording) {
    // Of the host's memory each replay sees for itself what is under way.
    if (to_device) to->settle_made(Use::kWrite);
    else from->settle_made(Use::kRead);
  } else {
    // Copies of one device keep their order, those of several do not.
    if (from->copying_device_ != device) from->wait_pending_copies(Use::kRead);
    if (to->copying_device_ != device) to->wait_pending_copies(Use::kWrite);
  }
  const device_backend::CopyEvent copy = device_backend::copy_async(
      device, to_device ? device_backend::CopyDirection::kToDevice : device_backend::CopyDirection::kToHost,
      to->data_ + to_offset, from->data_ + from_offset, bytes);
  if (recording) {
    note_captured(*recording, from, Use::kRead, copy);
    note_captured(*recording, to, Use::kWrite, copy);
  } else {
    from->note(copy, device, Use::kRead);
    to->note(copy, device, Use::kWrite);
  }
  to->bump_version();
}

// After copies out of the memory too, for the end of the replay then stands for all.
void Storage::begin_replay(int device) {
  device_backend::CopyEvent awaited;
  {
    const std::lock_guard lock(copies);
    awaited = last_copy_;
  }
  if (awaited) device_backend::wait_on_device(device, awaited);
}

void Storage::end_replay(int device, Use use, const device_backend::CopyEvent& end) {
  note(end, device, use);
  if (use == Use::kWrite) bump_version();
}

void Storage::move_to(Device device) {
  if (device == device_) return;
  if (!device.is_cpu()) device_backend::require("move_to", device.index);
  wait_pending_copies(Use::kWrite);
  Storage there(bytes_, device);
  if (device.is_cpu()) {
    device_backend::copy_to_host(device_.index, there.data_, data_, bytes_);
  } else if (device_.is_cpu()) {
    device_backend::copy_to_device(device.index, there.data_, data_, bytes_);
    if (pinned_) device_backend::synchronize(device.index);
  } else {
    const Storage host(bytes_, Device::cpu());
    device_backend::copy_to_host(device_.index, host.data_, data_, bytes_);
    device_backend::copy_to_device(device.index, there.data_, host.data_, bytes_);
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

}  // namespace tapecache
