#pragma once

#include <cstddef>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "tapecache/core/error.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// Cuts blocks from large segments of memory: the smallest free block that is large enough, and the lowest of those.
/// Neighbours are joined when they are freed, so what one phase of a step frees serves another phase that asks for
/// other sizes. The memory itself is never touched: it may be a device's.
class Arena {
 public:
  /// A block, or nullptr where no free block is large enough. Strong exception safety.
  std::byte* take(std::size_t size);
  /// Takes back a block that `take` returned. Asks the system for nothing.
  void give_back(std::byte* block) noexcept;
  /// Whether `take` returned this block and it was not given back.
  bool holds(std::byte* block) const {
    const auto found = blocks_.find(block);
    return found != blocks_.end() && found->second.taken;
  }
  /// Adds memory to cut from.
  void add_segment(std::byte* begin, std::size_t size);
  /// Forgets each segment of which nothing is taken, after `release(begin, size)`.
  template <class Release>
  void drop_free_segments(Release release) {
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      const auto next = std::next(at);
      if (!at->second.taken && at->second.first && (next == blocks_.end() || next->second.first)) {
        std::byte* begin = at->first;
        const std::size_t size = at->second.size;
        free_.erase({size, begin});
        blocks_.erase(at);
        reserved_ -= size;
        release(begin, size);
      }
      at = next;
    }
  }

  /// Bytes of all segments.
  std::size_t reserved() const { return reserved_; }

 private:
  using Free = std::set<std::pair<std::size_t, std::byte*>>;
  struct Block {
    std::size_t size;
    bool first;  // of its segment
    bool taken = false;
    Free::node_type entry;  // in free_, kept while the block is taken
  };

  std::map<std::byte*, Block> blocks_;
  Free free_;
  std::size_t reserved_ = 0;
};

}  // namespace tapecache

#pragma GCC visibility pop
