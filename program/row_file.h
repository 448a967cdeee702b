#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "csv.h"
#include "text_file.h"

namespace tapecache::program {

/// A file of rows, whatever its format: a table (.csv, .tsv) or JSON Lines (.jsonl, .ndjson). Its rows stay in the
/// file.
class RowFile {
 public:
  /// Of each chosen column its values: one, or as many as a JSON list has.
  using Values = std::vector<std::vector<Field>>;

  /// Opens it and finds its columns. Throws FileError for another ending, a broken first row and a header that has a
  /// name twice.
  RowFile(const std::filesystem::path& path, bool header);

  const TextFile& file() const { return file_; }
  /// Whether columns have names of their own.
  bool named() const { return !format_ || header_; }
  /// Whether a value may be a list.
  bool has_lists() const { return !format_; }
  /// Of the columns: by the header, or the first object. Of a table without a header "1", "2", ….
  const std::vector<std::string>& names() const { return names_; }
  /// What else the first object has, whose values are no texts and which cannot be chosen.
  const std::vector<std::string>& other_names() const { return other_names_; }
  /// Names of this kind are refused in objects where the first has none of that name, since what they hold is not read.
  void refuse_later(std::function<bool(const std::string&)> kind) { refused_later_ = std::move(kind); }
  /// Whose values are read. Throws FileError naming the columns that there are.
  void choose(const std::vector<std::string>& names);

  /// Goes through all rows, with where each stands in the file. Throws FileError with line and column for one that is
  /// broken.
  void each(const std::function<void(std::size_t begin, std::size_t end, Values& values)>& use) const;
  /// The row that stands there. From any thread. Throws FileError, also where it does not stand there any more.
  Values read(std::size_t begin, std::size_t end) const;

 private:
  struct Object;

  void read_names();
  Values of_table(std::vector<Field>& row) const;
  /// Of a line of JSON that begins there. False where there is nothing in it.
  bool parse_object(std::string_view line, std::size_t begin, Object& object) const;
  Values of_object(Object& object, std::string_view line, std::size_t begin) const;

  TextFile file_;
  std::optional<TableFormat> format_;  // none: JSON Lines
  bool header_;
  std::vector<std::string> names_, other_names_;
  std::function<bool(const std::string&)> refused_later_;
  std::vector<std::size_t> chosen_;
};

}  // namespace tapecache::program
