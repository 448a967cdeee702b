#include "tapecache/data/tokenizers/unicode.h"

#include <new>
#include <vector>

#include <utf8proc.h>

#include "tapecache/core/error.h"

namespace tapecache::data::tokenizers {

namespace {

utf8proc_category_t category(char32_t character) { return utf8proc_category(static_cast<utf8proc_int32_t>(character)); }

/// Bytes of the well-formed character at `at`, or none and the bytes of the malformed part.
struct Part {
  bool is_character;
  std::size_t size;
};

Part part_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> unsigned { return static_cast<unsigned char>(text[at + i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return {true, 1};
  const std::size_t size = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (size == 0) return {false, 1};
  // Overlong forms, surrogates and what is beyond the last character show in the second byte.
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < size; ++i) {
    if (at + i == text.size()) return {false, i};
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xBF)) return {false, i};
  }
  return {true, size};
}

/// Unicode's Cased: letters with a case, what has a mapping of case, and the two ordinal indicators.
bool is_cased(char32_t character) {
  const auto kind = category(character);
  if (kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT) return true;
  const auto code = static_cast<utf8proc_int32_t>(character);
  return code == 0xAA || code == 0xBA || utf8proc_tolower(code) != code || utf8proc_toupper(code) != code;
}

/// Unicode's Case_Ignorable: marks, formats, modifiers, and what stands within words.
bool is_case_ignorable(char32_t character) {
  switch (category(character)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      constexpr std::u32string_view kWithinWords =
          U"'.:\u00B7\u0387\u055F\u05F4\u2018\u2019\u2024\u2027\uFE13\uFE52\uFE55\uFF07\uFF0E\uFF1A";
      return kWithinWords.find(character) != std::u32string_view::npos;
  }
}

/// Whether the character at [begin, end) follows a letter with a case, and none follows it.
bool ends_word(std::string_view text, std::size_t begin, std::size_t end) {
  char32_t before = ' ', behind = ' ';
  while (begin > 0 && is_case_ignorable(before = previous_character(text, begin))) before = ' ';
  while (end < text.size() && is_case_ignorable(behind = next_character(text, end))) behind = ' ';
  return is_cased(before) && !is_cased(behind);
}

}  // namespace

std::size_t count_characters(std::string_view text) {
  std::size_t count = 0;
  for (const char byte : text) count += begins_character(byte);
  return count;
}

bool is_well_formed(std::string_view text) {
  if (is_ascii(text)) return true;
  for (std::size_t at = 0; at < text.size();) {
    const Part part = part_at(text, at);
    if (!part.is_character) return false;
    at += part.size;
  }
  return true;
}

std::string well_formed(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const Part part = part_at(text, at);
    if (part.is_character) result.append(text, at, part.size);
    else append_character(result, kReplacement);
    at += part.size;
  }
  return result;
}

bool is_whitespace(char32_t character) {
  if (character < 0x80) return character == ' ' || (character >= '\t' && character <= '\r');
  if (character == 0x85) return true;
  const auto kind = category(character);
  return kind == UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_ZL || kind == UTF8PROC_CATEGORY_ZP;
}

bool is_control(char32_t character) {
  const auto kind = category(character);
  return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF || kind == UTF8PROC_CATEGORY_CO ||
         kind == UTF8PROC_CATEGORY_CS;
}

bool is_punctuation(char32_t character) {
  if (character < 0x80) {
    return (character >= '!' && character <= '/') || (character >= ':' && character <= '@') ||
           (character >= '[' && character <= '`') || (character >= '{' && character <= '~');
  }
  const auto kind = category(character);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

bool is_numeric(char32_t character) {
  const auto kind = category(character);
  return kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
}

bool is_word(char32_t character) {
  const auto kind = category(character);
  if (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NL) return true;  // letters, marks, digits
  if (kind == UTF8PROC_CATEGORY_PC || character == 0x200C || character == 0x200D) return true;
  // Circled and squared letters are alphabetic, though of category So.
  return (character >= 0x24B6 && character <= 0x24E9) || (character >= 0x1F130 && character <= 0x1F149) ||
         (character >= 0x1F150 && character <= 0x1F169) || (character >= 0x1F170 && character <= 0x1F189);
}

bool is_mark(char32_t character) {
  const auto kind = category(character);
  return kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
}

bool is_nonspacing_mark(char32_t character) { return category(character) == UTF8PROC_CATEGORY_MN; }

int combining_class(char32_t character) {
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(character))->combining_class;
}

void append_lowercase(std::string& text, char32_t character) {
  // The one character whose lower case is two, whatever is around it; the library maps to single characters.
  constexpr char32_t kDottedCapitalI = 0x130, kDotAbove = 0x307;
  if (character == kDottedCapitalI) {
    text.push_back('i');
    append_character(text, kDotAbove);
  } else if (character < 0x80) {
    text.push_back(static_cast<char>(character >= 'A' && character <= 'Z' ? character + 32 : character));
  } else {
    append_character(text, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character))));
  }
}

void append_lowercase_text(std::string& result, std::string_view text) {
  constexpr char32_t kSigma = 0x3A3, kFinalSigma = 0x3C2;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t character = next_character(text, at);
    if (character == kSigma && ends_word(text, begin, at)) append_character(result, kFinalSigma);
    else append_lowercase(result, character);
  }
}

void normal_form(std::string_view text, Form form, std::string& result) {
  result.clear();
  constexpr auto kCombiningBegin = static_cast<char>(0xCC);  // of U+0300: no character before it ever composes
  const bool composed = form == Form::kC || form == Form::kKC;
  const auto inert = [&](char byte) {
    const auto first = static_cast<unsigned char>(byte);
    return first < 0x80 || (form == Form::kC && first < static_cast<unsigned char>(kCombiningBegin));
  };
  bool all_inert = true;
  for (const char byte : text) all_inert = all_inert && inert(byte);
  if (all_inert) {
    result = text;
    return;
  }
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                                     (form == Form::kKC || form == Form::kKD ? UTF8PROC_COMPAT : 0));
  const auto decompose_into = [&](std::vector<utf8proc_int32_t>& room) {
    return utf8proc_decompose(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                              static_cast<utf8proc_ssize_t>(text.size()), room.data(),
                              static_cast<utf8proc_ssize_t>(room.size()), options);
  };
  thread_local std::vector<utf8proc_int32_t> characters;
  if (characters.size() < text.size() + 32) characters.resize(text.size() + 32);
  utf8proc_ssize_t count = decompose_into(characters);
  if (count > static_cast<utf8proc_ssize_t>(characters.size())) {
    characters.resize(static_cast<std::size_t>(count));
    count = decompose_into(characters);
  }
  if (count >= 0) count = utf8proc_normalize_utf32(characters.data(), count, options);
  if (count < 0) throw ValueError(std::string("tokenizer: the text has no normal form: ") + utf8proc_errmsg(count));
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    append_character(result, static_cast<char32_t>(characters[static_cast<std::size_t>(i)]));
  }
}

int decompose(char32_t character, char32_t (&result)[32]) {
  utf8proc_int32_t characters[32];
  int boundary = 0;
  const auto count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(character), characters, 32,
                              static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
  if (count < 1 || count > 32) {
    result[0] = character;
    return 1;
  }
  for (utf8proc_ssize_t i = 0; i < count; ++i) result[i] = static_cast<char32_t>(characters[i]);
  return static_cast<int>(count);
}

bool is_grapheme_break(char32_t left, char32_t right, std::int32_t& state) {
  utf8proc_int32_t kept = state;
  const bool breaks = utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(left),
                                                       static_cast<utf8proc_int32_t>(right), &kept);
  state = kept;
  return breaks;
}

}  // namespace tapecache::data::tokenizers
