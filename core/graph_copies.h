#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "tapecache/core/tensor.h"
#include "tapecache/core/thread_context.h"

namespace tapecache::detail {

/// The asynchronous copies that a thread has given a device since it began to capture a step (`CapturedStep`). They are
/// made at each replay; until the capture ends, work that uses their memory is captured to come after them. Only
/// Storage calls the members, under its lock, except current().
class [[gnu::visibility("hidden")]] GraphCopies {
 public:
  /// Page-locked memory of the host that a replay copies from or, if `written`, into. It must stay at its address as
  /// long as the step is replayed.
  struct HostMemory {
    std::shared_ptr<Storage> storage = {};
    bool written = false;
  };

  GraphCopies() = default;
  ~GraphCopies() { Storage::end_capture(*this); }
  GraphCopies(const GraphCopies&) = delete;
  GraphCopies& operator=(const GraphCopies&) = delete;

  /// The copies of this thread's capture; null if there is none.
  static GraphCopies* current() { return thread_context.copies; }

  void add(const std::shared_ptr<Storage>& storage, Storage::Use use, const CopyEvent& copy);
  /// The last copy that a use of the storage must come after, or null.
  CopyEvent last(const Storage& storage, Storage::Use use) const;
  /// Forgets a copy that was waited for.
  void waited_for(const Storage& storage, const CopyEvent& copy);
  void forget(const Storage& storage) { last_.erase(&storage); }

  std::vector<HostMemory> host_memory() const { return host_; }

 private:
  friend class Storage;

  // A device makes its copies one after another, so that the end of the last is the end of all.
  struct Last {
    CopyEvent any, into;
  };

  std::unordered_map<const Storage*, Last> last_;
  std::vector<HostMemory> host_;
};

}  // namespace tapecache::detail
