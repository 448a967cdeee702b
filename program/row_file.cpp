#include "row_file.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace tapecache::program {

namespace {

std::string listed(const std::vector<std::string>& names) { return fmt::format("'{}'", fmt::join(names, "', '")); }

std::string ending(const std::filesystem::path& path) {
  std::string text = path.extension().string();
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// What nlohmann-json says, without where, which it counts within the line.
std::string reason(const std::string& message) {
  const std::size_t found = message.find(": ");
  return found == std::string::npos ? message : message.substr(found + 2);
}

/// Where the key stands in its line, as far as it is written without escapes.
std::size_t place_of(const std::string& name, std::string_view line) {
  const std::size_t found = line.find('"' + name + '"');
  return found == std::string_view::npos ? 0 : found;
}

/// The first line of a text, without its end, and how much the line takes of it.
std::pair<std::string_view, std::size_t> first_line(std::string_view text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  return {text.substr(0, end), std::min(end + 1, text.size())};
}

}  // namespace

RowFile::RowFile(const std::filesystem::path& path, bool header) : file_(path), header_(header) {
  const std::string found = ending(path);
  if (found == ".csv" || found == ".tsv") {
    format_ = found == ".csv" ? TableFormat::kCsv : TableFormat::kTsv;
  } else if (found != ".jsonl" && found != ".ndjson") {
    throw FileError(fmt::format("{}: found the ending '{}', expected .csv, .tsv or .jsonl", path.string(), found));
  }
  read_names();
}

void RowFile::read_names() {
  if (!format_) {
    Json first;
    for (TextReader reader(file_); !reader.text().empty();) {
      const auto [line, bytes] = first_line(reader.text());
      if (parse_object(line, reader.place(), first)) break;
      reader.skip(bytes);
    }
    for (const auto& [name, value] : first.items()) {
      if (value.is_string() || value.is_array()) names_.push_back(name);
    }
    return;
  }
  std::vector<Field> row;
  if (!TableReader(file_, *format_).next(row)) return;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const std::string name = header_ ? row[i].text : std::to_string(i + 1);
    if (std::ranges::find(names_, name) != names_.end()) {
      throw file_.error(row[i].offset, fmt::format("the header has '{}' twice", name));
    }
    names_.push_back(name);
  }
}

void RowFile::choose(const std::vector<std::string>& names) {
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

void RowFile::each(const std::function<void(std::size_t, std::size_t, Values&)>& use) const {
  if (format_) {
    TableReader table(file_, *format_);
    std::vector<Field> row;
    if (header_) table.next(row);
    while (table.next(row)) {
      Values values = of_table(row);
      use(table.begin(), table.end(), values);
    }
  } else {
    Json object;
    for (TextReader reader(file_); !reader.text().empty();) {
      const auto [line, bytes] = first_line(reader.text());
      const std::size_t begin = reader.place();
      if (parse_object(line, begin, object)) {
        Values values = of_object(object, line, begin);
        use(begin, begin + line.size(), values);
      }
      reader.skip(bytes);
    }
  }
  file_.require_unchanged();
}

RowFile::Values RowFile::read(std::size_t begin, std::size_t end) const {
  if (format_) {
    std::vector<Field> row = read_table_row(file_, *format_, begin, end);
    return of_table(row);
  }
  const std::string line = file_.read(begin, end);
  Json object;
  if (!parse_object(line, begin, object)) throw file_.error(begin, "found nothing, expected an object");
  return of_object(object, line, begin);
}

RowFile::Values RowFile::of_table(std::vector<Field>& row) const {
  if (row.size() != names_.size()) {
    const std::size_t at = row.empty() ? 0 : row.size() > names_.size() ? row[names_.size()].offset : row.back().offset;
    throw file_.error(at, fmt::format("found {} value{} in this row, expected {} ({})", row.size(),
                                      row.size() == 1 ? "" : "s", names_.size(), listed(names_)));
  }
  Values values(chosen_.size());
  for (std::size_t i = 0; i < chosen_.size(); ++i) values[i].push_back(std::move(row[chosen_[i]]));
  return values;
}

bool RowFile::parse_object(std::string_view line, std::size_t begin, Json& object) const {
  if (line.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos) return false;
  try {
    object = Json::parse(line);
  } catch (const Json::parse_error& e) {
    throw file_.error(begin + std::min(e.byte > 0 ? e.byte - 1 : 0, line.size()), "is no JSON: " + reason(e.what()));
  } catch (const Json::exception& e) {  // a number that is too large for any type
    throw file_.error(begin, "is no JSON that can be read: " + reason(e.what()));
  }
  if (!object.is_object()) {
    throw file_.error(begin, fmt::format("found a JSON {}, expected an object with texts", object.type_name()));
  }
  return true;
}

RowFile::Values RowFile::of_object(const Json& object, std::string_view line, std::size_t begin) const {
  Values values(chosen_.size());
  for (std::size_t i = 0; i < chosen_.size(); ++i) {
    const std::string& name = names_[chosen_[i]];
    const auto found = object.find(name);
    if (found == object.end()) throw file_.error(begin, fmt::format("the object has no '{}'", name));
    const std::size_t at = begin + place_of(name, line);
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
  return values;
}

}  // namespace tapecache::program
