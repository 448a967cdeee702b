#include "tapecache/data/tokenizers/trie.h"

#include <algorithm>

namespace tapecache::data::tokenizers {

Trie::Trie(std::vector<std::pair<std::string, std::int32_t>> entries) {
  std::ranges::sort(entries);
  struct Range {
    std::size_t begin, end, depth;  // of the keys that share `depth` bytes
  };
  std::vector<Range> ranges{{0, entries.size(), 0}};  // of each node
  nodes_.emplace_back();
  labels_.push_back('\0');
  for (std::uint32_t node = 0; node < nodes_.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    if (begin < end && entries[begin].first.size() == depth) nodes_[node].value = entries[begin++].second;
    nodes_[node].children = static_cast<std::uint32_t>(nodes_.size());
    while (begin < end) {
      const char label = entries[begin].first[depth];
      std::size_t next = begin;
      while (next < end && entries[next].first[depth] == label) ++next;
      ranges.push_back({begin, next, depth + 1});
      if (node == 0) first_[static_cast<unsigned char>(label)] = static_cast<std::uint32_t>(nodes_.size());
      nodes_.emplace_back();
      labels_.push_back(label);
      ++nodes_[node].count;
      begin = next;
    }
  }
}

}  // namespace tapecache::data::tokenizers
