#include "tapecache/core/arena.h"

namespace tapecache {

std::byte* Arena::take(std::size_t size) {
  const auto found = free_.lower_bound({size, nullptr});
  if (found == free_.end()) return nullptr;
  std::byte* begin = found->second;
  Block& block = blocks_.at(begin);
  if (block.size > size) {
    const std::size_t rest = block.size - size;
    Free one;
    one.emplace(rest, begin + size);
    blocks_.emplace(begin + size, Block{.size = rest, .first = false, .taken = false, .entry = {}});
    free_.insert(one.extract(one.begin()));
    block.size = size;
  }
  block.taken = true;
  block.entry = free_.extract(found);
  return begin;
}

void Arena::give_back(std::byte* begin) noexcept {
  auto at = blocks_.find(begin);
  at->second.taken = false;
  if (const auto next = std::next(at); next != blocks_.end() && !next->second.first && !next->second.taken) {
    at->second.size += next->second.size;
    free_.erase({next->second.size, next->first});
    blocks_.erase(next);
  }
  if (!at->second.first && !std::prev(at)->second.taken) {
    const auto before = std::prev(at);
    before->second.entry = free_.extract({before->second.size, before->first});
    before->second.size += at->second.size;
    blocks_.erase(at);
    at = before;
  }
  at->second.entry.value() = {at->second.size, at->first};
  free_.insert(std::move(at->second.entry));
}

void Arena::add_segment(std::byte* begin, std::size_t size) {
  const auto entry = free_.emplace(size, begin).first;
  try {
    blocks_.emplace(begin, Block{.size = size, .first = true, .taken = false, .entry = {}});
  } catch (...) {
    free_.erase(entry);
    throw;
  }
  reserved_ += size;
}

}  // namespace tapecache
