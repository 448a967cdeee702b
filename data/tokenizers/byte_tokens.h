#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tapecache/data/tokenizers/vocabulary.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// The ids of "<0x00>" to "<0xFF>", kNone for those that are not in the vocabulary.
std::vector<std::int32_t> byte_tokens(const Vocabulary& vocabulary);

/// Appends the ids of these bytes; none at all, and false, where one has none.
bool append_byte_tokens(const std::vector<std::int32_t>& tokens, std::string_view bytes,
                        std::vector<std::int32_t>& ids);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
