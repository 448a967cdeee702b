#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/core/json.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

using tapecache::detail::Json;

/// A folder within a folder, or that itself where there is no such part. No path ends in a slash: one that does is
/// appended to by libstdc++ in a way that frees what is not its own where memory runs out.
std::filesystem::path folder_within(const std::filesystem::path& folder, const std::filesystem::path& part = {});

/// What is wrong with a folder, a sentence each, so that one message tells all of it.
class Problems {
 public:
  void add(std::string sentence) { all_.push_back(std::move(sentence)); }
  bool empty() const { return all_.empty(); }
  /// That a size is not known, without which tensors are not worth a comparison.
  void add_size(std::string sentence) {
    add(std::move(sentence));
    sizes_known_ = false;
  }
  bool sizes_known() const { return sizes_known_; }
  /// Throws FileError with all of them, if there are any.
  void throw_any() const;

 private:
  std::vector<std::string> all_;
  bool sizes_known_ = true;
};

/// The fields of an object of a configuration file, each with the value that it has where the file leaves it out. What
/// is of another kind or out of range is noted by its file and name, and taken as left out.
class ConfigFields {
 public:
  /// `json` and `problems` live as long.
  ConfigFields(const std::filesystem::path& file, const Json& json, Problems& problems);

  /// Whether the file gives it a value, other than null.
  bool has(std::string_view name) const { return given(name) != nullptr; }
  /// At least `least` and at most 2^28, so that products of two are sizes still.
  std::int64_t size(std::string_view name, std::int64_t otherwise, std::int64_t least = 1) const;
  double number(std::string_view name, double otherwise) const;
  /// In [0, 1).
  double probability(std::string_view name, double otherwise) const;
  /// Above 0.
  double positive(std::string_view name, double otherwise) const;
  bool flag(std::string_view name, bool otherwise) const;
  std::string text(std::string_view name, std::string_view otherwise) const;
  /// A list of texts; empty where it is left out.
  std::vector<std::string> texts(std::string_view name) const;
  /// The fields of an object within; of none where it is left out.
  ConfigFields object(std::string_view name) const;
  const Json& json() const { return json_; }

  /// Notes a field that has another value than the one that is supported, which is what leaving it out means.
  void only_flag(std::string_view name, bool supported) const;
  void only_text(std::string_view name, std::string_view supported) const;
  /// Notes a field that must be left out, null, false, or an empty list or object.
  void none(std::string_view name) const;

  /// Notes that a field is what it is, and what was expected.
  void refuse(std::string_view name, std::string_view expected) const;
  void refuse_size(std::string_view name, std::string_view expected) const;
  const std::string& where() const { return where_; }
  Problems& problems() const { return problems_; }

 private:
  const Json* given(std::string_view name) const;
  std::string unexpected(std::string_view name, std::string_view expected) const;
  std::string full(std::string_view name) const { return within_ + std::string(name); }

  std::string where_, within_;
  const Json& json_;
  Problems& problems_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
