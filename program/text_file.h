#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "tapecache/core/error.h"

namespace tapecache::program {

/// A text file that is read in pieces, so that it may be larger than memory, and that tells where in it something is.
/// Places are counted in bytes, without a byte order mark at the beginning.
class TextFile {
 public:
  /// What comes by a pipe, and so but once, is read into memory. Throws FileError for a file that is missing, is a
  /// folder or cannot be read.
  explicit TextFile(const std::filesystem::path& path);
  /// The same for contents that were read already.
  TextFile(std::string name, std::string contents);
  ~TextFile();
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;

  const std::string& name() const { return name_; }
  std::size_t size() const { return size_; }
  /// What stands at [begin, end). From any thread. Throws FileError where it cannot be read or is not there any more.
  std::string read(std::size_t begin, std::size_t end) const;
  /// Throws FileError where the file was written to since it was opened. One that replaces it under its name is another
  /// file, of which nothing is read.
  void require_unchanged() const;
  /// "pairs.csv: line 3, column 5: what", lines and characters counted from 1.
  FileError error(std::size_t place, const std::string& what) const;

 private:
  struct Version {
    std::uintmax_t bytes = 0;
    std::int64_t seconds = 0, nanoseconds = 0;  // of its last change
    bool operator==(const Version&) const = default;
  };
  Version version() const;
  [[noreturn]] void fail_changed() const;
  void leave_out_byte_order_mark();

  std::string name_, contents_;
  int descriptor_ = -1;  // below 0: the contents are in memory
  Version opened_;
  std::size_t begin_ = 0, size_ = 0;  // behind the byte order mark
};

/// Goes through a text file from its front to its back, by whole lines, with little of it in memory. Throws FileError
/// with line and column for bytes that are no UTF-8, and for NUL, which UTF-16 is full of.
class TextReader {
 public:
  explicit TextReader(const TextFile& file);

  /// What comes next, to the end of a line or of the file; empty at its end.
  std::string_view text() const { return std::string_view(buffer_).substr(at_, lines_ - at_); }
  /// Where that stands in the file.
  std::size_t place() const { return place_ + at_; }
  /// Whether the text goes on behind `text()`.
  bool has_more() const { return place_ + buffer_.size() < file_.size() || lines_ < buffer_.size(); }
  /// Goes on behind so many bytes of `text()`.
  void skip(std::size_t bytes);
  /// Makes `text()` longer, to about twice its size, where there is more.
  void extend();

 private:
  void check(std::size_t begin, std::size_t end) const;

  const TextFile& file_;
  std::string buffer_;
  std::size_t place_ = 0;  // of the buffer
  std::size_t at_ = 0;     // in the buffer, where the text begins
  std::size_t lines_ = 0;  // in the buffer, where whole lines end
};

}  // namespace tapecache::program
