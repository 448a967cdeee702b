#include "tapecache/core/graph_copies.h"

#include <algorithm>

namespace tapecache::detail {

void GraphCopies::add(const std::shared_ptr<Storage>& storage, Storage::Use use, const CopyEvent& copy) {
  const bool into = use == Storage::Use::kWrite;
  Last& last = last_[storage.get()];
  last.any = copy;
  if (into) last.into = copy;
  if (!storage->device().is_cpu()) return;
  const auto held = std::find_if(host_.begin(), host_.end(), [&](const HostMemory& m) { return m.storage == storage; });
  if (held == host_.end()) host_.push_back({storage, into});
  else held->written = held->written || into;
}

CopyEvent GraphCopies::last(const Storage& storage, Storage::Use use) const {
  const auto found = last_.find(&storage);
  if (found == last_.end()) return nullptr;
  return use == Storage::Use::kRead ? found->second.into : found->second.any;
}

void GraphCopies::waited_for(const Storage& storage, const CopyEvent& copy) {
  Last& last = last_[&storage];
  if (last.any == copy) last.any.reset();
  if (last.into == copy || !last.any) last.into.reset();
}

}  // namespace tapecache::detail
