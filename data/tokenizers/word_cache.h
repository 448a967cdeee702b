#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/data/tokenizers/model.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Remembers what a model made of short pieces, as most words of a text have been seen before.
class WordCache {
 public:
  /// Appends what `model`, always the same one, makes of a piece.
  void encode(const Model& model, std::string_view piece, std::vector<std::int32_t>& ids);

 private:
  static constexpr std::size_t kPlaces = 1 << 15, kWords = 1 << 14, kLongest = 128;

  struct Word {
    std::uint64_t hash;
    std::uint32_t begin, size;              // of its text
    std::uint32_t ids_begin, ids_size = 0;  // none: a free place
  };

  void forget();

  std::vector<Word> places_ = std::vector<Word>(kPlaces);
  std::size_t words_ = 0;
  std::string texts_;
  std::vector<std::int32_t> ids_;
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
