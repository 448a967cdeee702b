#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/core/json.h"

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// That a value of a file is what it is (missing where it is null), and what was expected. The name is empty for all of
/// the file.
std::string unexpected(std::string_view file, std::string_view name, const Json* found, std::string_view expected);

/// What is wrong with files, a sentence each, so that one message tells all of it, or, at once, the first.
class Problems {
 public:
  enum class Tell { kAll, kAtOnce };

  explicit Problems(Tell tell = Tell::kAll) : tell_(tell) {}
  /// Throws FileError where it is told at once.
  void add(std::string sentence);
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
  Tell tell_;
  std::vector<std::string> all_;
  bool sizes_known_ = true;
};

/// The fields of an object of a configuration file, each with the value that it has where the file leaves it out. What
/// is of another kind or out of range is noted by its file and name, and taken as left out.
class JsonFields {
 public:
  /// `json` and `problems` live as long.
  JsonFields(const std::filesystem::path& file, const Json& json, Problems& problems);

  static constexpr std::int64_t kMostSize = 1 << 28;

  /// The value that the file gives it, other than null; null where there is none.
  const Json* given(std::string_view name) const;
  bool has(std::string_view name) const { return given(name) != nullptr; }
  /// At least `least` and at most `most` or 2^28, so that products of two are sizes still.
  std::int64_t size(std::string_view name, std::int64_t otherwise, std::int64_t least = 1,
                    std::int64_t most = kMostSize) const;
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
  JsonFields object(std::string_view name) const;
  /// Those of another object, which lives as long, under the name of one within.
  JsonFields object(std::string_view name, const Json& json) const;
  const Json& json() const { return json_; }

  /// Notes a field that has another value than the one that is supported, which is what leaving it out means.
  void only_flag(std::string_view name, bool supported) const;
  void only_text(std::string_view name, std::string_view supported) const;
  /// Notes a field that must be left out, null, false, or an empty list or object.
  void none(std::string_view name) const;
  /// Notes that of all fields but these.
  void only(std::initializer_list<std::string_view> known) const;

  /// Notes that a field is what it is, and what was expected.
  void refuse(std::string_view name, std::string_view expected) const;
  void refuse_size(std::string_view name, std::string_view expected) const;
  /// The same to be thrown.
  FileError refused(std::string_view name, std::string_view expected) const;
  const std::string& where() const { return where_; }
  Problems& problems() const { return problems_; }

 private:
  std::string unexpected(std::string_view name, std::string_view expected) const {
    return detail::unexpected(where_, full(name), json_.find(name), expected);
  }
  std::string full(std::string_view name) const { return within_ + std::string(name); }

  std::string where_, within_;
  const Json& json_;
  Problems& problems_;
};

}  // namespace tapecache::detail

#pragma GCC visibility pop
