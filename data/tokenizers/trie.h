#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Finds which of its keys a text begins with.
class Trie {
 public:
  static constexpr std::int32_t kNoValue = -1;

  Trie() : Trie(std::vector<std::pair<std::string, std::int32_t>>()) {}
  /// Of distinct keys that are not empty, and values from 0.
  explicit Trie(std::vector<std::pair<std::string, std::int32_t>> entries);

  /// Calls `visit(bytes, value)` for each key that `text` begins with, the shortest first.
  template <class Visit>
  void prefixes(std::string_view text, Visit visit) const {
    std::uint32_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      node = child(node, text[i]);
      if (node == 0) return;
      if (nodes_[node].value != kNoValue) visit(i + 1, nodes_[node].value);
    }
  }

  /// The longest such key: its bytes, or 0, and its value.
  std::pair<std::size_t, std::int32_t> longest(std::string_view text) const {
    std::pair<std::size_t, std::int32_t> found(0, kNoValue);
    prefixes(text, [&](std::size_t bytes, std::int32_t value) { found = {bytes, value}; });
    return found;
  }

  bool may_begin(char byte) const { return first_[static_cast<unsigned char>(byte)] != 0; }
  bool empty() const { return nodes_.size() == 1; }

 private:
  struct Node {
    std::uint32_t children = 0;  // the first of them
    std::uint32_t count = 0;
    std::int32_t value = kNoValue;
  };

  /// 0, the root, where there is none.
  std::uint32_t child(std::uint32_t node, char byte) const {
    if (node == 0) return first_[static_cast<unsigned char>(byte)];
    const Node& parent = nodes_[node];
    const char* const labels = labels_.data() + parent.children;
    if (parent.count <= 4) {
      for (std::uint32_t i = 0; i < parent.count; ++i) {
        if (labels[i] == byte) return parent.children + i;
      }
      return 0;
    }
    const void* const found = std::memchr(labels, byte, parent.count);
    return found ? static_cast<std::uint32_t>(static_cast<const char*>(found) - labels_.data()) : 0;
  }

  std::vector<Node> nodes_;
  std::string labels_;  // the byte that leads to each node
  std::array<std::uint32_t, 256> first_{};
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
