#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "tapecache/core/device.h"

namespace tapecache {

namespace device_backend {
/// The end of a copy that runs beside other work.
using CopyEvent = std::shared_ptr<void>;
}  // namespace device_backend

class GraphCopies;

/// One block of a device's memory, shared by the tensors that view it and freed with the last of them, or memory of the
/// host that a program wraps, released then.
///
/// Copies may be under way that run beside other work. Whoever is about to use the memory calls wait_pending_copies()
/// first: then the host, or where the memory is a device's, what that device is given next, waits for them.
class Storage {
 public:
  enum class Use { kRead, kWrite };

  /// Of the host, page-locked where `pinned` is set and there is a CUDA device. Throws OutOfMemory where the allocator
  /// cannot serve the request.
  Storage(std::size_t bytes, Device device, bool pinned = false);
  /// Over memory of the host that is not the allocator's. `release`, which must not throw, is called once, when this
  /// storage ends or moves to a device.
  Storage(void* memory, std::size_t bytes, std::function<void()> release) noexcept;
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  bool pinned() const { return pinned_; }
  /// Whether the memory is a program's own, which may be that of other storages too.
  bool wrapped() const { return wrapped_; }
  /// Moves the contents to another device, which every tensor that views them then is on; counts as a change of them.
  /// Throws, before anything is changed, DeviceError or OutOfMemory.
  void move_to(Device device);

  /// Takes the memory of another storage of the host and of as many bytes, which is left with that of this; counts as a
  /// change of the contents of both. Throws, before anything is changed, DeviceError.
  void swap_memory(Storage& other);

  /// Puts what follows after the copies under way: those into the memory, before a write also those out of it. Throws
  /// DeviceError where one of them failed.
  void wait_pending_copies(Use use) {
    if (copying_.load(std::memory_order_acquire)) settle_copies(use);
  }
  /// Copies beside other work, `bytes` from one place of a storage to one of another: of page-locked memory and a
  /// device's.
  static void copy_async(const std::shared_ptr<Storage>& from, std::size_t from_offset,
                         const std::shared_ptr<Storage>& to, std::size_t to_offset, std::size_t bytes);

  /// For work of a device that copies from or into this memory of the host, as often as it is done, without a word to
  /// copy_async(): puts it after the copies under way, and says with what it ends.
  void begin_replay(int device);
  void end_replay(int device, Use use, const device_backend::CopyEvent& end);

  /// Counts the times the contents were opened for writing.
  std::uint64_t version() const { return version_; }
  void bump_version() { ++version_; }

 private:
  friend class GraphCopies;

  void settle_copies(Use use);
  void settle_recorded(Use use);
  void settle_made(Use use);
  static void end_capture(const GraphCopies& recorded);
  void note(const device_backend::CopyEvent& copy, int device, Use use);
  static void note_captured(GraphCopies& recording, const std::shared_ptr<Storage>& storage, Use use,
                            const device_backend::CopyEvent& copy);
  void exchange(Storage& other) noexcept;
  void free() noexcept;

  std::byte* data_;
  std::size_t bytes_;
  Device device_;
  bool pinned_, wrapped_ = false;
  std::function<void()> release_;  // of wrapped memory; may be empty
  std::uint64_t version_ = 0;
  // Copies of one device are made one after another, so that the last of them stands for all.
  std::atomic<bool> copying_ = false;
  device_backend::CopyEvent last_copy_, last_copy_into_;
  int copying_device_ = 0;
  GraphCopies* captured_by_ = nullptr;  // who knows of copies that a thread captures now
};

}  // namespace tapecache
