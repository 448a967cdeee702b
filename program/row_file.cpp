#include "row_file.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
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

/// What is made of a line of JSON while nlohmann-json reads it. Its own values end the program where they are freed
/// without memory for that.
class ObjectReader {
 public:
  struct Item {
    const char* type;  // as messages call it
    std::string text;
  };
  struct Value {
    std::string name;
    const char* type;
    std::vector<Item> items;  // of a list each, else the value itself

    bool has_texts() const { return std::string_view(type) == "string" || std::string_view(type) == "array"; }
  };

  const char* type = "";      // of the whole
  std::vector<Value> values;  // of an object, in its order; of a name that it has twice the later
  std::size_t error_at = 0;   // in the line, counted from 1; 0 for a number that is too large for any type
  std::string error;

  // What nlohmann-json calls.
  bool null() { return add("null"); }
  bool boolean(bool) { return add("boolean"); }
  bool number_integer(std::int64_t) { return add("number"); }
  bool number_unsigned(std::uint64_t) { return add("number"); }
  bool number_float(double, const std::string&) { return add("number"); }
  bool string(std::string& text) { return add("string", std::move(text)); }
  template <class Bytes>
  bool binary(Bytes&) {
    return add("binary");
  }
  bool start_object(std::size_t) { return begin("object"); }
  bool start_array(std::size_t) { return begin("array"); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }
  bool key(std::string& name) {
    if (depth_ != 1) return true;
    const auto known = std::ranges::find(values, name, &Value::name);
    value_ = static_cast<std::size_t>(known - values.begin());
    if (known == values.end()) values.push_back({std::move(name), "", {}});
    else known->items.clear();
    return true;
  }
  template <class Exception>
  bool parse_error(std::size_t position, const std::string&, const Exception& what) {
    constexpr int kSyntax = 100;  // of the ids of what is no JSON
    error_at = what.id / kSyntax == 1 ? std::max<std::size_t>(position, 1) : 0;
    error = reason(what.what());
    return false;
  }

 private:
  bool add(const char* type_of_item, std::string text = {}) {
    if (depth_ == 0) {
      type = type_of_item;
    } else if (depth_ == 1 && is_object()) {
      values[value_].type = type_of_item;
      values[value_].items.push_back({type_of_item, std::move(text)});
    } else if (depth_ == 2 && is_object() && values[value_].type == kList) {
      values[value_].items.push_back({type_of_item, std::move(text)});
    }
    return true;
  }
  bool begin(const char* what) {
    const bool is_list = std::string_view(what) == kList;
    add(is_list ? kList.data() : what);
    if (depth_ == 1 && is_object() && is_list) values[value_].items.clear();
    ++depth_;
    return true;
  }
  bool end() {
    --depth_;
    return true;
  }
  bool is_object() const { return std::string_view(type) == "object"; }

  static constexpr std::string_view kList = "array";
  int depth_ = 0;
  std::size_t value_ = 0;
};

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

struct RowFile::Object {
  std::vector<ObjectReader::Value> values;
};

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
    Object first;
    for (TextReader reader(file_); !reader.text().empty();) {
      const auto [line, bytes] = first_line(reader.text());
      if (parse_object(line, reader.place(), first)) break;
      reader.skip(bytes);
    }
    for (const ObjectReader::Value& value : first.values) {
      (value.has_texts() ? names_ : other_names_).push_back(value.name);
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
    Object object;
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
  Object object;
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

bool RowFile::parse_object(std::string_view line, std::size_t begin, Object& object) const {
  if (line.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos) return false;
  ObjectReader reader;
  if (!nlohmann::ordered_json::sax_parse(line, &reader)) {
    if (reader.error_at == 0) throw file_.error(begin, "is no JSON that can be read: " + reader.error);
    throw file_.error(begin + std::min(reader.error_at - 1, line.size()), "is no JSON: " + reader.error);
  }
  if (std::string_view(reader.type) != "object") {
    throw file_.error(begin, fmt::format("found a JSON {}, expected an object with texts", reader.type));
  }
  object.values = std::move(reader.values);
  return true;
}

RowFile::Values RowFile::of_object(Object& object, std::string_view line, std::size_t begin) const {
  for (const ObjectReader::Value& value : object.values) {
    if (!refused_later_ || std::ranges::find(names_, value.name) != names_.end() ||
        std::ranges::find(other_names_, value.name) != other_names_.end() || !refused_later_(value.name)) {
      continue;
    }
    throw file_.error(begin + place_of(value.name, line),
                      fmt::format("the object has '{}', which the first has not", value.name));
  }
  Values values(chosen_.size());
  for (std::size_t i = 0; i < chosen_.size(); ++i) {
    const std::string& name = names_[chosen_[i]];
    const auto found = std::ranges::find(object.values, name, &ObjectReader::Value::name);
    if (found == object.values.end()) throw file_.error(begin, fmt::format("the object has no '{}'", name));
    const std::size_t at = begin + place_of(name, line);
    for (ObjectReader::Item& item : found->items) {
      if (std::string_view(item.type) != "string") {
        throw file_.error(at, fmt::format("'{}' is a JSON {}, expected a text", name, item.type));
      }
      values[i].push_back({std::move(item.text), at});
    }
  }
  return values;
}

}  // namespace tapecache::program
