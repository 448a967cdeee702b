#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tapecache/core/error.h"

namespace tapecache::data {

/// Splits text into lower-cased words and spells words outside its vocabulary byte by byte, so that no text is
/// beyond it.
///
/// A word is a run of ASCII letters, ASCII digits and bytes of multi-byte UTF-8 characters; only ASCII letters are
/// lower-cased. Ids: `kPad`, `kBegin`, `kEnd`, 256 bytes from `kFirstByte`, then the words from `kFirstWord`.
class WordTokenizer {
 public:
  static constexpr std::int32_t kPad = 0;
  static constexpr std::int32_t kBegin = 1;
  static constexpr std::int32_t kEnd = 2;
  static constexpr std::int32_t kFirstByte = 3;
  static constexpr std::int32_t kFirstWord = kFirstByte + 256;

  /// Takes a vocabulary as `words()` gave it, the first word getting the id `kFirstWord`. Throws ValueError, with
  /// its place, for a repeated word or one that no text can have, such as one with an upper-case ASCII letter.
  explicit WordTokenizer(std::vector<std::string> words);

  /// Builds the vocabulary of all words that occur at least `min_count` times in `texts`, the most frequent first,
  /// equally frequent ones in byte order. Throws ValueError if `min_count` is below 1.
  static WordTokenizer build(std::span<const std::string> texts, int min_count);

  /// Returns begin, the text, end: at most `max_tokens` ids, text that does not fit being cut so that end is always
  /// last; not padded. Throws ValueError if `max_tokens` is below 2.
  std::vector<std::int32_t> encode(std::string_view text, int max_tokens) const;

  /// The number of ids, all of which are below it.
  int vocabulary_size() const { return kFirstWord + static_cast<int>(words_.size()); }

  /// The words in the order of their ids.
  const std::vector<std::string>& words() const { return words_; }

 private:
  std::vector<std::string> words_;
  std::unordered_map<std::string, std::int32_t> ids_;
};

}  // namespace tapecache::data
