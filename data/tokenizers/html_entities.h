#pragma once

#include <string>
#include <string_view>

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

/// Which character references are taken for such: all that a browser takes, also those without a semicolon, as Python's
/// `html.unescape`; or those that end in one, and names of letters in capitals, as ftfy.
enum class Entities { kAll, kMarked };

/// A text with the characters in the place of their references.
std::string without_entities(std::string_view text, Entities which);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
