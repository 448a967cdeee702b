#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tapecache/data/tokenizers/fields.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// What is cut off texts that are too long.
struct Truncation {
  enum class Strategy { kLongestFirst, kOnlyFirst, kOnlySecond };

  std::int64_t max_tokens = 0;
  Strategy strategy = Strategy::kLongestFirst;
  bool left = false;
};

Truncation read_truncation(const Field& field);

/// Cuts these to `room` ids together. Throws ValueError where the strategy cannot.
void truncate(const Truncation& truncation, std::size_t room, std::vector<std::int32_t>& first,
              std::vector<std::int32_t>* second);

/// What is put behind or before texts that are too short.
struct Padding {
  std::optional<std::int64_t> length;  // none: that of the longest
  std::int64_t multiple = 1;
  std::int32_t id = 0, type = 0;
  bool left = false;

  std::size_t length_for(std::size_t longest) const;
};

Padding read_padding(const Field& field);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
