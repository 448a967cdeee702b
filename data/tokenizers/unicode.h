#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#pragma GCC visibility push(hidden)

/// Characters of well-formed UTF-8, and their properties.
namespace tapecache::data::tokenizers {

constexpr std::uint32_t kReplacement = 0xFFFD;

inline bool is_ascii(std::string_view text) {
  constexpr std::uint64_t kHighBits = 0x8080808080808080;
  std::size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    std::uint64_t eight;
    std::memcpy(&eight, text.data() + i, 8);
    if (eight & kHighBits) return false;
  }
  for (; i < text.size(); ++i) {
    if (static_cast<signed char>(text[i]) < 0) return false;
  }
  return true;
}

/// Bytes of the character that begins with this one.
inline std::size_t character_size(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

inline bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

/// The character at `at`, which moves behind it.
inline char32_t next_character(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const std::size_t size = character_size(text[at]);
  char32_t character = byte(0);
  if (size == 2) character = (byte(0) & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
  if (size == 3) character = (byte(0) & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
  if (size == 4) {
    character = (byte(0) & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
  }
  at += size;
  return character;
}

/// The character before `at`, which moves to its begin.
inline char32_t previous_character(std::string_view text, std::size_t& at) {
  do --at;
  while (!begins_character(text[at]));
  std::size_t begin = at;
  return next_character(text, begin);
}

inline void append_character(std::string& text, char32_t character) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  const auto follow = [&](int shift) { put(0x80 | (character >> shift & 0x3F)); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xC0 | character >> 6), follow(0);
  } else if (character < 0x10000) {
    put(0xE0 | character >> 12), follow(6), follow(0);
  } else {
    put(0xF0 | character >> 18), follow(12), follow(6), follow(0);
  }
}

std::size_t count_characters(std::string_view text);

bool is_well_formed(std::string_view text);
/// With U+FFFD for each maximal part of a malformed sequence.
std::string well_formed(std::string_view text);

bool is_whitespace(char32_t character);
/// Of general category C, but for unassigned characters.
bool is_control(char32_t character);
/// Of general category P, or ASCII's other symbols.
bool is_punctuation(char32_t character);
/// Of general category N.
bool is_numeric(char32_t character);
/// As `\w` of regular expressions.
bool is_word(char32_t character);
/// Of general category M, and Mn.
bool is_mark(char32_t character);
bool is_nonspacing_mark(char32_t character);
int combining_class(char32_t character);

void append_lowercase(std::string& text, char32_t character);
/// Appends `text` in lower case as Python has it, where a sigma that ends a word is another.
void append_lowercase_text(std::string& result, std::string_view text);

enum class Form { kC, kD, kKC, kKD };
/// Puts the normal form of `text` into `result`.
void normal_form(std::string_view text, Form form, std::string& result);
/// The canonical decomposition of one character; how many characters it has.
int decompose(char32_t character, char32_t (&result)[32]);

/// Whether a cluster that the user takes for one character may end between these; `state` is 0 before a text.
bool is_grapheme_break(char32_t left, char32_t right, std::int32_t& state);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
