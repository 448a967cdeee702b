#include "pairs_file.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "csv.h"
#include "tapecache/core/error.h"
#include "text_file.h"

namespace tapecache::program {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kAnchorNames[] = {"anchor", "query", "question", "sentence1", "text1", "source"};
constexpr std::string_view kPositiveNames[] = {"positive", "pos",       "passage", "document",
                                               "answer",   "sentence2", "text2",   "target"};
constexpr std::string_view kNegativeNames[] = {"negative", "neg", "hard_negative"};
constexpr std::string_view kImageNames[] = {"image",     "image_path", "filepath", "file_path",
                                            "file_name", "filename",   "path"};
constexpr std::string_view kCaptionNames[] = {"caption", "captions", "title", "text", "sentence", "description"};
constexpr std::string_view kTextNames[] = {"text", "sentence", "passage", "document"};

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

/// Whether `name` is one of these, in any case, with a number behind it or without.
bool is_one_of(std::string_view name, std::span<const std::string_view> names, bool numbered = false) {
  std::string known = lower(name);
  if (numbered) {
    while (!known.empty() && std::isdigit(static_cast<unsigned char>(known.back()))) known.pop_back();
    while (!known.empty() && (known.back() == '_' || known.back() == '-')) known.pop_back();
  }
  return std::ranges::find(names, known) != names.end();
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

std::string listed(const std::vector<std::string>& names) { return fmt::format("'{}'", fmt::join(names, "', '")); }

/// Rows of a file, whatever its format: of each the values of the columns that are wanted. A JSON list gives several.
class Rows {
 public:
  Rows(const std::filesystem::path& path, bool header) : file_(path), header_(header) {
    const std::string extension = lower(path.extension().string());
    if (extension == ".csv" || extension == ".tsv") {
      const TableFormat format = extension == ".csv" ? TableFormat::kCsv : TableFormat::kTsv;
      table_.emplace(file_, format);
      read_names();
      if (!header_) table_.emplace(file_, format);  // from the first row again
    } else if (extension == ".jsonl" || extension == ".ndjson") {
      Json first;
      std::size_t begin = 0;
      if (next_object(first, begin)) {
        for (const auto& [name, value] : first.items()) {
          if (value.is_string() || value.is_array()) names_.push_back(name);
        }
      }
      at_ = 0;
    } else {
      throw FileError(
          fmt::format("{}: found the ending '{}', expected .csv, .tsv or .jsonl", path.string(), extension));
    }
  }

  const TextFile& file() const { return file_; }
  /// Whether columns have names of their own.
  bool named() const { return !table_ || header_; }
  /// Of the columns: by the header, or the first object. Of a table without a header "1", "2", ….
  const std::vector<std::string>& names() const { return names_; }

  /// Throws FileError naming the columns that there are.
  void choose(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      const auto found = std::ranges::find(names_, name);
      if (found == names_.end()) {
        throw FileError(fmt::format("{}: has no column '{}', found {}", file_.name(), name,
                                    names_.empty() ? "nothing" : listed(names_)));
      }
      if (std::ranges::count(names, name) > 1) {
        throw FileError(fmt::format("{}: column '{}' was chosen twice", file_.name(), name));
      }
      chosen_.push_back(static_cast<std::size_t>(found - names_.begin()));
    }
  }

  /// The chosen values of the next row, those of one column after another; false at the end.
  bool next(std::vector<std::vector<Field>>& values) {
    values.assign(chosen_.size(), {});
    return table_ ? next_of_table(values) : next_of_lines(values);
  }

 private:
  void read_names() {
    if (!table_->next(row_)) return;
    for (std::size_t i = 0; i < row_.size(); ++i) {
      const std::string name = header_ ? row_[i].text : std::to_string(i + 1);
      if (std::ranges::find(names_, name) != names_.end()) {
        throw file_.error(row_[i].offset, fmt::format("the header has '{}' twice", name));
      }
      names_.push_back(name);
    }
  }

  bool next_of_table(std::vector<std::vector<Field>>& values) {
    if (!table_->next(row_)) return false;
    if (row_.size() != names_.size()) {
      const std::size_t at = row_.size() > names_.size() ? row_[names_.size()].offset : row_.back().offset;
      throw file_.error(at, fmt::format("found {} value{} in this row, expected {} ({})", row_.size(),
                                        row_.size() == 1 ? "" : "s", names_.size(), listed(names_)));
    }
    for (std::size_t i = 0; i < chosen_.size(); ++i) values[i].push_back(std::move(row_[chosen_[i]]));
    return true;
  }

  /// The object of the next line that is not empty, and where the line begins.
  bool next_object(Json& object, std::size_t& begin) {
    const std::string_view text = file_.contents();
    while (at_ < text.size()) {
      begin = at_;
      const std::size_t end = std::min(text.find('\n', begin), text.size());
      at_ = end + 1;
      const std::string_view line = text.substr(begin, end - begin);
      if (is_blank(line)) continue;
      try {
        object = Json::parse(line);
      } catch (const Json::parse_error& e) {
        throw file_.error(begin + std::min(e.byte > 0 ? e.byte - 1 : 0, line.size()),
                          "is no JSON: " + reason(e.what()));
      } catch (const Json::exception& e) {  // a number that is too large for any type
        throw file_.error(begin, "is no JSON that can be read: " + reason(e.what()));
      }
      if (!object.is_object()) {
        throw file_.error(begin, fmt::format("found a JSON {}, expected an object with texts", object.type_name()));
      }
      return true;
    }
    return false;
  }
  /// What nlohmann-json says, without where, which it counts within the line.
  static std::string reason(const std::string& message) {
    const std::size_t found = message.find(": ");
    return found == std::string::npos ? message : message.substr(found + 2);
  }

  bool next_of_lines(std::vector<std::vector<Field>>& values) {
    Json object;
    std::size_t begin = 0;
    if (!next_object(object, begin)) return false;
    for (std::size_t i = 0; i < chosen_.size(); ++i) {
      const std::string& name = names_[chosen_[i]];
      const auto found = object.find(name);
      if (found == object.end()) throw file_.error(begin, fmt::format("the object has no '{}'", name));
      const std::size_t at = begin + place_of(name, begin);
      const auto add = [&](const Json& value) {
        if (!value.is_string()) {
          throw file_.error(at, fmt::format("'{}' is a JSON {}, expected a text", name, value.type_name()));
        }
        values[i].push_back({value.get<std::string>(), at});
      };
      if (found->is_array()) {
        for (const Json& value : *found) add(value);
      } else {
        add(*found);
      }
    }
    return true;
  }
  /// Where the key stands in its line, as far as it is written without escapes.
  std::size_t place_of(const std::string& name, std::size_t begin) const {
    const std::string_view line = file_.contents().substr(begin, at_ - 1 - begin);
    const std::size_t found = line.find('"' + name + '"');
    return found == std::string_view::npos ? 0 : found;
  }

  TextFile file_;
  bool header_;
  std::optional<TableReader> table_;
  std::vector<Field> row_;
  std::size_t at_ = 0;  // of JSON Lines, where the next line begins
  std::vector<std::string> names_;
  std::vector<std::size_t> chosen_;
};

std::optional<std::string> first_of(const std::vector<std::string>& names, std::span<const std::string_view> known) {
  const auto found = std::ranges::find_if(names, [&](const std::string& name) { return is_one_of(name, known); });
  return found == names.end() ? std::nullopt : std::optional(*found);
}

struct Columns {
  std::vector<std::string> names;
  bool images = false;
};

/// Of images and captions: those that are given, or that are known by their names.
std::optional<Columns> image_columns(const Rows& rows, const PairsOptions& options) {
  const auto choose = [&](const std::string& given, std::span<const std::string_view> known) {
    return given.empty() ? first_of(rows.names(), known) : std::optional(given);
  };
  const auto image = choose(options.image, kImageNames), caption = choose(options.caption, kCaptionNames);
  if (image && caption) return Columns{{*image, *caption}, true};
  if (options.image.empty() && options.caption.empty()) return std::nullopt;
  throw FileError(fmt::format("{}: cannot tell which column has the {}, found {}; say so by {}", rows.file().name(),
                              image ? "captions" : "images", listed(rows.names()),
                              image ? "--caption-column NAME" : "--image-column NAME"));
}

/// The columns by their names, or in their order.
Columns known_columns(const Rows& rows, const PairsOptions& options) {
  const std::vector<std::string>& names = rows.names();
  if (!options.image.empty() || !options.caption.empty()) return *image_columns(rows, options);
  if (!rows.named()) return {names};
  std::optional<std::string> anchor, positive;
  std::vector<std::string> negatives;
  for (const std::string& name : names) {
    if (!anchor && is_one_of(name, kAnchorNames)) anchor = name;
    if (!positive && is_one_of(name, kPositiveNames)) positive = name;
    if (is_one_of(name, kNegativeNames, true)) negatives.push_back(name);
  }
  if (!anchor || !positive) {
    if (const auto images = image_columns(rows, options)) return *images;
    throw FileError(fmt::format(
        "{}: cannot tell which columns are anchor and positive, found {}; say so by --columns "
        "ANCHOR,POSITIVE, --image-column and --caption-column, or --no-header where the first row is a pair",
        rows.file().name(), names.empty() ? "nothing" : listed(names)));
  }
  Columns columns{{*anchor, *positive}};
  columns.names.insert(columns.names.end(), negatives.begin(), negatives.end());
  return columns;
}

/// The lines of places that come one behind the other, each line end being looked for once.
class LineCounter {
 public:
  explicit LineCounter(const TextFile& file) : text_(file.contents()) {}
  std::int64_t line_of(std::size_t offset) {
    line_ += std::ranges::count(text_.substr(at_, offset - std::min(at_, offset)), '\n');
    at_ = std::max(at_, offset);
    return line_;
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
  std::int64_t line_ = 1;
};

}  // namespace

Pairs Pairs::select(const std::vector<std::int64_t>& rows) const {
  Pairs result{.images = images, .file = file, .hard_negatives = hard_negatives};
  for (const std::int64_t row : rows) {
    const auto at = static_cast<std::size_t>(row);
    result.anchors.push_back(anchors[at]);
    result.positives.push_back(positives[at]);
    if (images) result.lines.push_back(lines[at]);
    for (std::int64_t k = 0; k < hard_negatives; ++k) {
      result.negatives.push_back(negatives[static_cast<std::size_t>(row * hard_negatives + k)]);
    }
  }
  return result;
}

ImageFile Pairs::image(std::int64_t row) const {
  const auto at = static_cast<std::size_t>(row);
  return {file.parent_path() / anchors[at], fmt::format("{}: line {}", file.string(), lines[at])};
}

Pairs read_pairs(const std::filesystem::path& path, const PairsOptions& options) {
  Rows rows(path, options.header);
  const Columns chosen = options.columns.empty() ? known_columns(rows, options) : Columns{options.columns};
  const std::vector<std::string>& columns = chosen.names;
  if (columns.size() < 2) {
    throw FileError(fmt::format("{}: found {} column{}, expected at least an anchor and a positive", path.string(),
                                columns.size(), columns.size() == 1 ? "" : "s"));
  }
  rows.choose(columns);
  Pairs pairs{.images = chosen.images, .file = path};
  std::optional<std::size_t> negatives;
  LineCounter lines(rows.file());
  std::vector<std::vector<Field>> values;
  while (rows.next(values)) {
    std::vector<Field> texts;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i < 2 && values[i].size() != 1) {
        throw rows.file().error(values[i].empty() ? 0 : values[i].front().offset,
                                fmt::format("'{}' is a list of {}, expected a text", columns[i], values[i].size()));
      }
      for (Field& value : values[i]) texts.push_back(std::move(value));
    }
    const auto empty = std::ranges::find_if(texts, [](const Field& f) { return is_blank(f.text); });
    if (empty != texts.end()) {
      if (!options.skip_empty) {
        throw rows.file().error(empty->offset, "the text is empty; --skip-empty passes over such rows");
      }
      ++pairs.skipped;
      continue;
    }
    if (!negatives) negatives = texts.size() - 2;
    if (texts.size() - 2 != *negatives) {
      throw rows.file().error(
          texts.front().offset,
          fmt::format("found {} hard negatives, expected {} as in the first row", texts.size() - 2, *negatives));
    }
    if (pairs.images) {
      std::error_code error;
      if (!std::filesystem::is_regular_file(path.parent_path() / texts[0].text, error)) {
        throw rows.file().error(texts[0].offset, fmt::format("there is no file {}, expected an image",
                                                             (path.parent_path() / texts[0].text).string()));
      }
      pairs.lines.push_back(lines.line_of(texts[0].offset));
    }
    pairs.anchors.push_back(std::move(texts[0].text));
    pairs.positives.push_back(std::move(texts[1].text));
    for (std::size_t i = 2; i < texts.size(); ++i) pairs.negatives.push_back(std::move(texts[i].text));
  }
  if (pairs.size() == 0) {
    throw FileError(
        fmt::format("{}: holds no pair{}", path.string(),
                    pairs.skipped > 0 ? fmt::format(", but {} rows with an empty text", pairs.skipped) : ""));
  }
  pairs.hard_negatives = static_cast<std::int64_t>(negatives.value_or(0));
  return pairs;
}

std::vector<std::string> read_texts(const std::filesystem::path& path, const TextsOptions& options) {
  std::vector<std::string> texts;
  const auto add = [&](const TextFile& file, std::string text, std::size_t offset) {
    if (is_blank(text)) throw file.error(offset, "the text is empty, expected one for each row of the vectors");
    texts.push_back(std::move(text));
  };
  if (lower(path.extension().string()) == ".txt") {
    const TextFile file(path);
    const std::string_view all = file.contents();
    for (std::size_t begin = 0; begin < all.size();) {
      const std::size_t end = std::min(all.find('\n', begin), all.size());
      std::string_view line = all.substr(begin, end - begin);
      if (line.ends_with('\r')) line.remove_suffix(1);
      add(file, std::string(line), begin);
      begin = end + 1;
    }
  } else {
    Rows rows(path, options.header);
    std::string column = options.column;
    if (column.empty() && rows.names().size() == 1) column = rows.names().front();
    for (const std::string& name : rows.names()) {
      if (column.empty() && (options.images ? is_one_of(name, kImageNames) : is_one_of(name, kTextNames)))
        column = name;
    }
    if (column.empty()) {
      throw FileError(fmt::format("{}: cannot tell which column has the {}, found {}; say so by --column NAME",
                                  path.string(), options.images ? "images" : "texts",
                                  rows.names().empty() ? "nothing" : listed(rows.names())));
    }
    rows.choose({column});
    std::vector<std::vector<Field>> values;
    while (rows.next(values)) {
      if (values[0].size() != 1) throw rows.file().error(0, fmt::format("'{}' is a list, expected a text", column));
      add(rows.file(), std::move(values[0][0].text), values[0][0].offset);
    }
  }
  if (texts.empty()) throw FileError(fmt::format("{}: holds no text", path.string()));
  return texts;
}

}  // namespace tapecache::program
