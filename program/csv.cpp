#include "csv.h"

#include <algorithm>
#include <string_view>

namespace tapecache::program {

bool TableReader::at_row_end() const {
  const std::string_view rest = file_.contents().substr(at_);
  return rest.empty() || rest.front() == '\n' || rest.starts_with("\r\n");
}

void TableReader::skip_row_end() {
  const std::string_view text = file_.contents();
  if (at_ < text.size() && text[at_] == '\r') ++at_;
  if (at_ < text.size()) ++at_;
}

bool TableReader::next(std::vector<Field>& row) {
  row.clear();
  const std::string_view text = file_.contents();
  while (at_ < text.size() && at_row_end()) skip_row_end();
  if (at_ >= text.size()) return false;
  const char separator = format_ == TableFormat::kCsv ? ',' : '\t';
  while (true) {
    row.push_back(format_ == TableFormat::kCsv && at_ < text.size() && text[at_] == '"' ? quoted_field() : field());
    if (at_row_end()) break;
    if (text[at_] != separator)
      throw file_.error(at_, "found text behind a closing quote, expected a comma or the line's end");
    ++at_;
  }
  skip_row_end();
  return true;
}

Field TableReader::field() {
  const std::string_view text = file_.contents();
  const std::size_t begin = at_;
  const char separator = format_ == TableFormat::kCsv ? ',' : '\t';
  for (; !at_row_end() && text[at_] != separator; ++at_) {
    if (format_ == TableFormat::kCsv && text[at_] == '"') {
      throw file_.error(at_,
                        "found a quote within a value that does not begin with one; put the value in quotes and "
                        "double those that it holds");
    }
  }
  return {std::string(text.substr(begin, at_ - begin)), begin};
}

Field TableReader::quoted_field() {
  const std::string_view text = file_.contents();
  Field result{"", at_};
  while (true) {
    const std::size_t begin = at_ + 1, quote = text.find('"', begin);
    if (quote == std::string_view::npos) throw file_.error(result.offset, "found a quote that is never closed");
    result.text += text.substr(begin, quote - begin);
    at_ = quote + 1;
    if (at_ >= text.size() || text[at_] != '"') return result;
    result.text += '"';
  }
}

}  // namespace tapecache::program
