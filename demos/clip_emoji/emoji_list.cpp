#include "emoji_list.h"

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <system_error>

#include <fmt/format.h>

#include "required_file.h"
#include "tapecache/core/error.h"

namespace clip_emoji {
namespace {

constexpr std::string_view kVariationSelector16 = "\xEF\xB8\x8F";
constexpr std::string_view kSkinTonePrefix = "\xF0\x9F\x8F";  // then BB to BF

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

/// Takes the text up to the next blank off the front of `rest`.
std::string_view take_word(std::string_view& rest) {
  rest = trim(rest);
  const std::string_view word = rest.substr(0, rest.find(' '));
  rest = trim(rest.substr(word.size()));
  return word;
}

void append_utf8(std::string& out, std::uint32_t c) {
  const auto byte = [&](std::uint32_t value) { out.push_back(static_cast<char>(value)); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6);
    byte(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    byte(0xE0 | c >> 12);
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  } else {
    byte(0xF0 | c >> 18);
    byte(0x80 | (c >> 12 & 0x3F));
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  }
}

/// Reads "1F44B 1F3FB" as UTF-8; nothing for what is not a list of Unicode scalar values.
std::optional<std::string> parse_code_points(std::string_view text) {
  std::string sequence;
  while (!text.empty()) {
    const std::string_view word = take_word(text);
    std::uint32_t c = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), c, 16);
    const bool scalar = c != 0 && c <= 0x10FFFF && !(c >= 0xD800 && c <= 0xDFFF);
    if (error != std::errc{} || end != word.data() + word.size() || !scalar) return std::nullopt;
    append_utf8(sequence, c);
  }
  if (sequence.empty()) return std::nullopt;
  return sequence;
}

/// Takes the value of "# key: value" comments.
std::optional<std::string> heading(std::string_view line, std::string_view key) {
  if (!line.starts_with(key)) return std::nullopt;
  return std::string(trim(line.substr(key.size())));
}

}  // namespace

std::vector<ListedEmoji> read_emoji_list(const std::filesystem::path& emoji_test) {
  require_file(emoji_test, "Unicode's emoji-test.txt", "unicode-data");
  std::ifstream file(emoji_test);
  if (!file) {
    throw tapecache::FileError(
        fmt::format("{}: cannot be opened for reading: {}", emoji_test.string(), std::strerror(errno)));
  }

  std::vector<ListedEmoji> listed;
  std::string group;
  std::string subgroup;
  std::string text;
  for (int number = 1; std::getline(file, text); ++number) {
    const auto malformed = [&](std::string_view why) {
      return tapecache::FileError(
          fmt::format("{}:{}: {}, expected 'code points; status # emoji version name' as in emoji-test.txt",
                      emoji_test.string(), number, why));
    };
    const std::string_view line = trim(text);
    if (line.empty()) continue;
    if (line.starts_with('#')) {
      if (auto value = heading(line, "# group:")) {
        group = *value;
        subgroup.clear();
      } else if (auto sub = heading(line, "# subgroup:")) {
        subgroup = *sub;
      }
      continue;
    }
    const std::size_t semicolon = line.find(';');
    if (semicolon == std::string_view::npos) throw malformed("no ';'");
    const std::size_t hash = line.find('#', semicolon);
    if (hash == std::string_view::npos) throw malformed("no '#'");
    auto sequence = parse_code_points(trim(line.substr(0, semicolon)));
    if (!sequence) throw malformed("no hexadecimal code points");
    if (trim(line.substr(semicolon + 1, hash - semicolon - 1)) != "fully-qualified") continue;

    std::string_view comment = line.substr(hash + 1);
    take_word(comment);
    const std::string_view version = take_word(comment);
    if (!version.starts_with('E') || comment.empty()) throw malformed("no version and name");
    if (group.empty()) throw malformed("emoji before the first '# group:'");
    listed.push_back({std::move(*sequence), std::string(comment), group, subgroup});
  }
  if (file.bad()) throw tapecache::FileError(fmt::format("{}: reading failed", emoji_test.string()));
  if (listed.empty()) {
    throw tapecache::FileError(
        fmt::format("{}: no fully-qualified emoji, expected Unicode's emoji-test.txt", emoji_test.string()));
  }
  return listed;
}

std::string without_variation_selectors(std::string_view utf8) {
  std::string result;
  for (std::size_t i = 0; i < utf8.size();) {
    if (utf8.substr(i).starts_with(kVariationSelector16)) {
      i += kVariationSelector16.size();
    } else {
      result.push_back(utf8[i++]);
    }
  }
  return result;
}

std::string without_skin_tones(std::string_view utf8) {
  std::string result;
  for (std::size_t i = 0; i < utf8.size();) {
    const std::string_view rest = utf8.substr(i);
    if (rest.size() >= 4 && rest.starts_with(kSkinTonePrefix) && static_cast<unsigned char>(rest[3]) >= 0xBB) {
      i += 4;
    } else {
      result.push_back(utf8[i++]);
    }
  }
  return result;
}

}  // namespace clip_emoji
