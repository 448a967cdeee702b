#include "csv.h"

#include <optional>
#include <string_view>

namespace tapecache::program {

namespace {

/// The first row of a text, which is a part of the file.
class RowParser {
 public:
  RowParser(const TextFile& file, TableFormat format, std::string_view text, std::size_t place)
      : file_(file),
        format_(format),
        text_(text),
        place_(place),
        separator_(format == TableFormat::kCsv ? ',' : '\t') {}

  /// False where the text has none, or ends within quotes.
  bool parse(std::vector<Field>& row) {
    row.clear();
    while (at_ < text_.size() && at_row_end()) skip_row_end();
    begin_ = at_;
    if (at_ >= text_.size()) return false;
    while (true) {
      row.push_back(format_ == TableFormat::kCsv && at_ < text_.size() && text_[at_] == '"' ? quoted_field() : field());
      if (open_) return false;
      if (at_row_end()) break;
      if (text_[at_] != separator_) {
        throw file_.error(place_ + at_, "found text behind a closing quote, expected a comma or the line's end");
      }
      ++at_;
    }
    skip_row_end();
    return true;
  }

  /// Within the text.
  std::size_t begin() const { return begin_; }
  std::size_t end() const { return at_; }
  /// The place of a quote that the text does not close.
  const std::optional<std::size_t>& open() const { return open_; }

 private:
  bool at_row_end() const {
    const std::string_view rest = text_.substr(at_);
    return rest.empty() || rest.front() == '\n' || rest.starts_with("\r\n");
  }

  void skip_row_end() {
    if (at_ < text_.size() && text_[at_] == '\r') ++at_;
    if (at_ < text_.size()) ++at_;
  }

  Field field() {
    const std::size_t begin = at_;
    for (; !at_row_end() && text_[at_] != separator_; ++at_) {
      if (format_ == TableFormat::kCsv && text_[at_] == '"') {
        throw file_.error(place_ + at_,
                          "found a quote within a value that does not begin with one; put the value in quotes and "
                          "double those that it holds");
      }
    }
    return {std::string(text_.substr(begin, at_ - begin)), place_ + begin};
  }

  Field quoted_field() {
    Field result{"", place_ + at_};
    while (true) {
      const std::size_t begin = at_ + 1, quote = text_.find('"', begin);
      if (quote == std::string_view::npos) {
        open_ = result.offset;
        return result;
      }
      result.text += text_.substr(begin, quote - begin);
      at_ = quote + 1;
      if (at_ >= text_.size() || text_[at_] != '"') return result;
      result.text += '"';
    }
  }

  const TextFile& file_;
  TableFormat format_;
  std::string_view text_;
  std::size_t place_;
  char separator_;
  std::size_t at_ = 0, begin_ = 0;
  std::optional<std::size_t> open_;
};

constexpr const char* kNeverClosed = "found a quote that is never closed";

}  // namespace

bool TableReader::next(std::vector<Field>& row) {
  while (!reader_.text().empty()) {
    RowParser parser(file_, format_, reader_.text(), reader_.place());
    const bool found = parser.parse(row);
    if (parser.open()) {
      if (!reader_.has_more()) throw file_.error(*parser.open(), kNeverClosed);
      reader_.extend();
      continue;
    }
    begin_ = reader_.place() + parser.begin();
    end_ = reader_.place() + parser.end();
    reader_.skip(parser.end());
    if (found) return true;
  }
  row.clear();
  return false;
}

std::vector<Field> read_table_row(const TextFile& file, TableFormat format, std::size_t begin, std::size_t end) {
  const std::string text = file.read(begin, end);
  RowParser parser(file, format, text, begin);
  std::vector<Field> row;
  parser.parse(row);
  if (parser.open()) throw file.error(*parser.open(), kNeverClosed);
  return row;
}

}  // namespace tapecache::program
