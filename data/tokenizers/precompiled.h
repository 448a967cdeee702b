#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/data/tokenizers/fields.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// The map of SentencePiece from characters, or clusters of them, to what they are normalised to.
class Precompiled {
 public:
  /// Of the map in base 64.
  explicit Precompiled(const Field& charsmap);

  /// Puts what is made of `text` into `result`.
  void apply(std::string_view text, std::string& result) const;

  struct Rule {
    std::size_t size = 0;  // of what is replaced; 0 where there is no rule
    std::string_view by;
  };
  /// That of the longest key that `text` begins with, which SentencePiece itself takes.
  Rule longest(std::string_view text) const;

 private:
  /// Calls `use(size, by)` for each key that `text` begins with, the shortest first, while that returns true.
  template <class Use>
  void each_key(std::string_view text, Use use) const;
  /// What the shortest key that `text` begins with is replaced by.
  std::optional<std::string_view> replacement(std::string_view text) const;
  void append(std::string_view cluster, std::string& result) const;

  std::vector<std::uint32_t> units_;  // a double-array trie
  std::string texts_;                 // each ended by a NUL
  std::array<bool, 128> plain_{};     // ASCII characters that stay as they are
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
