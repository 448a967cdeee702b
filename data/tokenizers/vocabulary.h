#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

constexpr std::int32_t kNone = -1;

inline std::uint64_t hash_of(std::string_view text) {
  constexpr std::uint64_t kFactor = 0x9E3779B97F4A7C15;
  std::uint64_t hash = text.size() * kFactor;
  const auto take = [&](std::uint64_t part) {
    hash = (hash ^ part) * kFactor;
    hash ^= hash >> 32;
  };
  std::size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    std::uint64_t part;
    std::memcpy(&part, text.data() + i, 8);
    take(part);
  }
  if (i < text.size()) {
    std::uint64_t part = 0;
    std::memcpy(&part, text.data() + i, text.size() - i);
    take(part);
  }
  return hash;
}

/// Tokens and their ids, either of which finds the other.
class Vocabulary {
 public:
  /// A token that is there already gets the new id.
  void add(std::string_view token, std::int32_t id);

  /// kNone where it is not there.
  std::int32_t find(std::string_view token) const;
  std::optional<std::string_view> token(std::int32_t id) const;
  std::size_t size() const { return entries_.size(); }
  /// Above all ids.
  std::int32_t end() const { return static_cast<std::int32_t>(by_id_.size()); }

  /// `visit(token, id)` for each, in the order in which they were added.
  template <class Visit>
  void for_each(Visit visit) const {
    for (const Entry& entry : entries_) visit(text(entry), entry.id);
  }

 private:
  struct Entry {
    std::size_t begin, size;
    std::int32_t id;
  };

  std::string_view text(const Entry& entry) const { return std::string_view(text_).substr(entry.begin, entry.size); }
  /// Of the token in the table, or the free place for it.
  std::size_t place_of(std::string_view token) const;

  std::string text_;
  std::vector<Entry> entries_;
  std::vector<std::uint32_t> table_ = std::vector<std::uint32_t>(16);  // 1 + which entry, or 0; a power of two long
  std::vector<std::uint32_t> by_id_;                                   // 1 + which entry, or 0
};

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
