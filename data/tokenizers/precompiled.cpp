#include "tapecache/data/tokenizers/precompiled.h"

#include <cstring>

#include <fmt/format.h>

#include "tapecache/data/tokenizers/unicode.h"

namespace tapecache::data::tokenizers {

namespace {

std::string from_base64(const Field& field) {
  const std::string& text = field.string();
  std::string bytes;
  std::uint32_t kept = 0;
  int bits = 0;
  std::size_t end = text.size();
  while (end > 0 && text[end - 1] == '=') --end;
  for (std::size_t i = 0; i < end; ++i) {
    const char c = text[i];
    const int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
    if (value < 0) throw field.refused(fmt::format("not base 64 at character {}", i));
    kept = kept << 6 | static_cast<std::uint32_t>(value);
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push_back(static_cast<char>(kept >> bits & 0xFF));
  }
  return bytes;
}

// The fields of a unit of the trie.
bool has_value(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t value_of(std::uint32_t unit) { return unit & 0x7FFFFFFF; }
std::uint32_t label_of(std::uint32_t unit) { return unit & 0x800000FF; }
std::uint32_t offset_of(std::uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

}  // namespace

Precompiled::Precompiled(const Field& charsmap) {
  const std::string bytes = from_base64(charsmap);
  std::uint32_t trie_bytes = 0;
  if (bytes.size() >= 4) {
    for (int i = 3; i >= 0; --i) {
      trie_bytes = trie_bytes << 8 | static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)]);
    }
  }
  if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > bytes.size() - 4) {
    throw charsmap.refused(fmt::format("a trie of {} bytes in a map of {}", trie_bytes, bytes.size()));
  }
  for (std::size_t i = 4; i < 4 + std::size_t{trie_bytes}; i += 4) {
    std::uint32_t unit = 0;
    for (std::size_t j = 4; j-- > 0;) unit = unit << 8 | static_cast<unsigned char>(bytes[i + j]);
    units_.push_back(unit);
  }
  texts_ = bytes.substr(4 + std::size_t{trie_bytes});
  if (!is_well_formed(texts_)) throw charsmap.refused("its texts are not UTF-8");
  for (char c = 0; c >= 0 && c < 127; ++c) plain_[static_cast<unsigned char>(c)] = !replacement({&c, 1});
}

template <class Use>
void Precompiled::each_key(std::string_view text, Use use) const {
  const auto unit_at = [&](std::uint32_t place) { return place < units_.size() ? units_[place] : 0; };
  std::uint32_t place = offset_of(unit_at(0));
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0) return;
    place ^= byte;
    const std::uint32_t unit = unit_at(place);
    if (label_of(unit) != byte) return;
    place ^= offset_of(unit);
    if (!has_value(unit)) continue;
    const std::uint32_t begin = value_of(unit_at(place));
    if (begin > texts_.size()) return;
    const std::string_view rest = std::string_view(texts_).substr(begin);
    // A map that is malformed may point into a character.
    if (!rest.empty() && !begins_character(rest.front())) return;
    if (!use(i + 1, rest.substr(0, rest.find('\0')))) return;
  }
}

std::optional<std::string_view> Precompiled::replacement(std::string_view text) const {
  std::optional<std::string_view> found;
  each_key(text, [&](std::size_t, std::string_view by) {
    found = by;
    return false;
  });
  return found;
}

Precompiled::Rule Precompiled::longest(std::string_view text) const {
  Rule found;
  each_key(text, [&](std::size_t size, std::string_view by) {
    // A map that is malformed may end within a character.
    if (size == text.size() || begins_character(text[size])) found = {size, by};
    return true;
  });
  return found;
}

void Precompiled::append(std::string_view cluster, std::string& result) const {
  constexpr std::size_t kLongest = 5;  // longer ones are taken by their characters
  if (cluster.size() <= kLongest) {
    if (const auto found = replacement(cluster)) {
      result += *found;
      return;
    }
  }
  for (std::size_t begin = 0, end; begin < cluster.size(); begin = end) {
    end = begin + character_size(cluster[begin]);
    const std::string_view character = cluster.substr(begin, end - begin);
    result += replacement(character).value_or(character);
  }
}

void Precompiled::apply(std::string_view text, std::string& result) const {
  result.clear();
  std::int32_t state = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto ascii = [&](std::size_t i) { return i == text.size() || static_cast<signed char>(text[i]) >= 0; };
    // Between two characters of ASCII a cluster ends, but within a line's end.
    if (ascii(begin) && ascii(begin + 1) && text[begin] != '\r') {
      const char c = text[begin];
      if (plain_[static_cast<unsigned char>(c)]) result += c;
      else append(text.substr(begin, 1), result);
      ++begin;
      state = 0;
      continue;
    }
    std::size_t end = begin;
    char32_t last = next_character(text, end);
    while (end < text.size()) {
      std::size_t next = end;
      const char32_t character = next_character(text, next);
      if (is_grapheme_break(last, character, state)) break;
      last = character;
      end = next;
    }
    append(text.substr(begin, end - begin), result);
    begin = end;
  }
}

}  // namespace tapecache::data::tokenizers
