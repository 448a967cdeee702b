#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "tapecache/core/tensor.h"
#include "tapecache/core/thread_context.h"

namespace tapecache {

/// The asynchronous copies that a thread has given a device since it began to capture a step (`CapturedStep`): they are
/// made at each replay, and until the capture ends what it captures after them can be put there. All but current() is
/// for Storage, under its lock.
class [[gnu::visibility("hidden")]] GraphCopies {
 public:
  /// Page-locked memory of the host that is copied from or, where it is `written`, into. It must stay where it is for
  /// as long as the step is replayed.
  struct HostMemory {
    std::shared_ptr<Storage> storage = {};
    bool written = false;
  };

  GraphCopies() = default;
  ~GraphCopies() { Storage::end_capture(*this); }
  GraphCopies(const GraphCopies&) = delete;
  GraphCopies& operator=(const GraphCopies&) = delete;

  /// Null where the thread captures nothing.
  static GraphCopies* current() { return detail::thread_context.copies; }

  void add(const std::shared_ptr<Storage>& storage, Storage::Use use, const device_backend::CopyEvent& copy);
  /// The last copy that a use of the storage must come after; null where there is none.
  device_backend::CopyEvent last(const Storage& storage, Storage::Use use) const;
  /// What was waited for is no longer among the last.
  void waited_for(const Storage& storage, const device_backend::CopyEvent& copy);
  void forget(const Storage& storage) { last_.erase(&storage); }

  std::vector<HostMemory> host_memory() const { return host_; }

 private:
  friend class Storage;

  // All are made one after another, so that the last of them stands for all.
  struct Last {
    device_backend::CopyEvent any, into;
  };

  std::unordered_map<const Storage*, Last> last_;
  std::vector<HostMemory> host_;
};

}  // namespace tapecache
