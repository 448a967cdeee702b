#pragma once

#include <string>
#include <string_view>

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Appends each byte as the visible character that byte-level vocabularies have for it.
void append_in_byte_alphabet(std::string_view bytes, std::string& text);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
