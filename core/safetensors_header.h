#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/core/dtype.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

class AtomicFile;
struct SafetensorsFile;

}  // namespace tapecache

namespace tapecache::detail {

/// As `write_safetensors` of files.h, but for what makes a file appear; `path` begins messages.
void write_safetensors(AtomicFile& out, const std::filesystem::path& path, const SafetensorsFile& file);

constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;  // the reference implementation's own bound, in bytes
constexpr std::size_t kMaxSafetensorsText = 4 << 20;
constexpr std::size_t kMaxSafetensorsMetadata = 65'536;
constexpr std::uint32_t kMaxSafetensorsRank = 255;

/// Of a type by the format's name for it; none where this library has no such type.
std::optional<DType> safetensors_dtype(std::string_view type);
const char* safetensors_type(DType dtype);

/// The parsed header of a safetensors file. It keeps what it needs of the header's text in the place of that text, so
/// that it takes little more memory.
class SafetensorsHeader {
 public:
  /// A part of the text that is kept.
  struct Text {
    std::uint32_t begin = 0, size = 0;
  };
  struct Entry {
    std::uint64_t begin = 0, end = 0;  // bytes, from the end of the header
    Text name, type;
    std::uint32_t sizes = 0, rank = 0;  // where in the text, and how many
  };

  /// `where` begins messages. Throws FileError for a header that is malformed, or contradicts the number of bytes after
  /// it.
  SafetensorsHeader(const std::string& where, std::string text, std::uint64_t data_bytes);

  std::string_view text(Text text) const { return std::string_view(packed_).substr(text.begin, text.size); }
  /// Keys and values, ascending by key.
  const std::vector<std::pair<Text, Text>>& metadata() const { return metadata_; }
  std::optional<std::string_view> metadata_of(std::string_view key) const;
  /// Ascending by name.
  const std::deque<Entry>& entries() const { return entries_; }
  /// Null where there is none.
  const Entry* find(std::string_view name) const;
  std::vector<std::int64_t> sizes(const Entry& entry) const;

 private:
  class Parser;

  void sort_by_name(const std::string& where);
  void check_offsets(const std::string& where, std::uint64_t data_bytes);

  std::string packed_;
  std::deque<Entry> entries_;  // which grows without a copy
  std::vector<std::pair<Text, Text>> metadata_;
};

}  // namespace tapecache::detail

#pragma GCC visibility pop
