#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "tapecache/core/error.h"
#include "tapecache/core/json.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::tokenizers {

using tapecache::detail::Json;

class JsonFile;

/// A value of a JSON file. What it is asked for and is not, it refuses with a FileError that names file and field.
class Field {
 public:
  bool is_null() const;
  bool is_string() const;
  bool is_array() const;
  bool is_object() const;

  const std::string& string() const;
  /// Of one character, which it returns.
  const std::string& character() const;
  bool boolean() const;
  double number() const;
  /// From 0 to `end` - 1.
  std::int64_t integer(std::int64_t end) const;
  /// An id of a token.
  std::int32_t id() const;

  std::size_t size() const;
  Field operator[](std::size_t index) const;
  Field at(std::string_view key) const;
  /// None where it is missing or null.
  std::optional<Field> find(std::string_view key) const;
  bool has(std::string_view key) const;
  bool boolean_or(std::string_view key, bool otherwise) const;
  /// Of members of one name the last alone.
  void for_each(const std::function<void(const std::string& key, const Field& value)>& visit) const;
  /// Refuses other keys than these: what they ask for would not be done.
  void check_keys(std::initializer_list<std::string_view> known) const;

  const Json& json() const { return *value_; }

  /// For a field whose value is none of those that can be.
  FileError refused(const std::string& what) const;

 private:
  friend class JsonFile;
  Field(const JsonFile& file, const Json* value) : file_(&file), value_(value) {}
  FileError unexpected(std::string_view expected) const;
  const Json* member(std::string_view key) const;

  const JsonFile* file_;
  const Json* value_;
};

class JsonFile {
 public:
  explicit JsonFile(const std::filesystem::path& path);
  /// Takes `root` for what the file holds.
  JsonFile(std::filesystem::path path, Json root);
  JsonFile(const JsonFile&) = delete;
  JsonFile& operator=(const JsonFile&) = delete;

  Field root() const { return Field(*this, &root_); }
  const std::filesystem::path& path() const { return path_; }
  /// Gives the root another member, before its fields are asked for.
  void set(std::string_view key, Json value) { root_.set(key, std::move(value)); }

 private:
  friend class Field;
  std::string name_of(const Json& value) const;

  std::filesystem::path path_;
  Json root_;
};

constexpr std::int32_t kMaxTokens = 1 << 24;

/// All bytes of a regular file of at most 1 GiB. Throws FileError.
std::string file_bytes(const std::filesystem::path& path);

}  // namespace tapecache::data::tokenizers

#pragma GCC visibility pop
