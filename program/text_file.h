#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "tapecache/core/error.h"

namespace tapecache::program {

/// A text file in memory, in UTF-8, that tells where in it something is.
class TextFile {
 public:
  /// Throws FileError for a file that is missing, no regular one or cannot be read, and with line and column for bytes
  /// that are no UTF-8 and for NUL, which UTF-16 is full of. A byte order mark is left out.
  explicit TextFile(const std::filesystem::path& path);
  /// The same for contents that were read already.
  TextFile(std::string name, std::string contents);

  const std::string& name() const { return name_; }
  std::string_view contents() const { return std::string_view(contents_).substr(begin_); }
  /// "pairs.csv: line 3, column 5: what", lines and characters counted from 1, for a place in `contents()`.
  FileError error(std::size_t offset, const std::string& what) const;

 private:
  void check() const;

  std::string name_, contents_;
  std::size_t begin_ = 0;  // behind the byte order mark
};

}  // namespace tapecache::program
