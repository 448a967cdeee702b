#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// A value of a JSON text. Objects keep the order of their members, and numbers the text that they were read from, so
/// that what is not changed is written as it was.
struct Json {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  using Member = std::pair<std::string, Json>;

  Kind kind = Kind::kNull;
  bool flag = false;
  std::string text = {};  ///< of a string or a number
  std::vector<Json> items = {};
  std::vector<Member> members = {};

  static Json object(std::vector<Member> members = {}) {
    return {.kind = Kind::kObject, .members = std::move(members)};
  }
  static Json array(std::vector<Json> items = {}) { return {.kind = Kind::kArray, .items = std::move(items)}; }
  static Json of(bool value) { return {.kind = Kind::kBool, .flag = value}; }
  static Json of(std::int64_t value) { return {.kind = Kind::kNumber, .text = std::to_string(value)}; }
  static Json of(std::string_view value) { return {.kind = Kind::kString, .text = std::string(value)}; }
  static Json of(const char* value) { return of(std::string_view(value)); }

  bool is(Kind other) const { return kind == other; }
  /// The member of an object; null where there is none, or this is no object.
  const Json* find(std::string_view name) const;
  /// Adds a member, or replaces it where it stands.
  void set(std::string_view name, Json value);
  void erase(std::string_view name);

  /// A whole number, also one that is written as 512.0.
  std::optional<std::int64_t> integer() const;
  std::optional<double> number() const;

  /// Indented by two blanks, as Python's `json.dump(indent=2)` lays it out.
  std::string dump() const;
  /// On one line, for messages: not more than some 80 characters.
  std::string brief() const;
};

/// Throws FileError, naming `where`, for a text that is no JSON or is nested in more than 64 objects or arrays. Of two
/// members of one name the last counts, as in Python.
Json parse_json(const std::string& where, std::string_view text);

/// Throws FileError, naming the path, where it is missing, not a regular file, of more than 4 MiB or not JSON.
Json read_json(const std::filesystem::path& path);

/// The contents of a regular file of not more than this many bytes. Throws FileError.
std::string read_small_file(const std::filesystem::path& path, std::uint64_t most);

}  // namespace tapecache::detail

#pragma GCC visibility pop
