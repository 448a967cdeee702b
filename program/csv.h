#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "text_file.h"

namespace tapecache::program {

/// A value of a table, and where in its file it begins.
struct Field {
  std::string text;
  std::size_t offset = 0;
};

enum class TableFormat {
  kCsv,  ///< RFC 4180: a value in double quotes may hold commas, line ends and, doubled, quotes
  kTsv,  ///< IANA's text/tab-separated-values: quotes are text, and no value holds a tab or a line end
};

/// Reads a table row by row. Lines end by LF or CRLF; those with nothing in them are passed over.
class TableReader {
 public:
  TableReader(const TextFile& file, TableFormat format) : file_(file), format_(format), reader_(file) {}

  /// The next row; false at the end. Throws FileError with line and column for a quote that is never closed, stands
  /// within a value without quotes, or is followed by something else than the value's end.
  bool next(std::vector<Field>& row);
  /// Where the last row begins and ends.
  std::size_t begin() const { return begin_; }
  std::size_t end() const { return end_; }

 private:
  const TextFile& file_;
  TableFormat format_;
  TextReader reader_;
  std::size_t begin_ = 0, end_ = 0;
};

/// The row that stands at [begin, end) of the file, as the reader found it.
std::vector<Field> read_table_row(const TextFile& file, TableFormat format, std::size_t begin, std::size_t end);

}  // namespace tapecache::program
