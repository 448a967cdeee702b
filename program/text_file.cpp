#include "text_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace tapecache::program {

namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

std::string read_whole(const std::filesystem::path& path) {
  const auto fail = [&](std::string_view what) { throw FileError(fmt::format("{}: {}", path.string(), what)); };
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) fail("no such file");
  if (std::filesystem::is_directory(status)) fail("is a folder, expected a file");
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(fmt::format("cannot be opened: {}", std::strerror(errno)));
  std::string contents;
  // Of a pipe there is no size to ask for.
  if (std::filesystem::is_regular_file(status)) contents.reserve(std::filesystem::file_size(path, error));
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  while (file) {
    const std::size_t before = contents.size();
    contents.resize(before + kPiece);
    file.read(contents.data() + before, kPiece);
    contents.resize(before + static_cast<std::size_t>(file.gcount()));
  }
  if (file.bad()) fail(fmt::format("cannot be read: {}", std::strerror(errno)));
  return contents;
}

/// Bytes of the well-formed sequence (Unicode's table 3-7) at the beginning, which is not empty; 0 for none.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                             : first >> 4 == 0xE              ? 3
                             : first >= 0xF0 && first <= 0xF4 ? 4
                                                              : 0;
  if (length == 0 || text.size() < length) return 0;
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if (byte(i) >> 6 != 2) return 0;
  }
  return length;
}

}  // namespace

TextFile::TextFile(const std::filesystem::path& path) : TextFile(path.string(), read_whole(path)) {}

TextFile::TextFile(std::string name, std::string contents) : name_(std::move(name)), contents_(std::move(contents)) {
  if (contents_.starts_with(kByteOrderMark)) begin_ = kByteOrderMark.size();
  check();
}

void TextFile::check() const {
  const std::string_view text = contents();
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '\0') throw error(at, "found a NUL, expected text in UTF-8 (is this UTF-16, or no text?)");
    const std::size_t length = sequence_length(text.substr(at));
    if (length == 0) {
      throw error(at,
                  fmt::format("found the byte 0x{:02x}, which is no UTF-8 here; convert the file, as by iconv -t UTF-8",
                              static_cast<unsigned char>(text[at])));
    }
    at += length;
  }
}

FileError TextFile::error(std::size_t offset, const std::string& what) const {
  const std::string_view before = contents().substr(0, offset);
  const std::size_t line_begin = before.rfind('\n') + 1;  // 0 where there is none
  const auto lines = std::ranges::count(before, '\n');
  const auto characters =
      std::ranges::count_if(before.substr(line_begin), [](char c) { return static_cast<unsigned char>(c) >> 6 != 2; });
  return FileError(fmt::format("{}: line {}, column {}: {}", name_, lines + 1, characters + 1, what));
}

}  // namespace tapecache::program
