#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include "tapecache/core/language.h"

namespace tapecache {

/// A file that appears whole under its name or not at all: it is written under a temporary name in the same folder,
/// `NAME.tmp-` and 16 hexadecimal digits, flushed to disk with its folder, and renamed. Several may be written under
/// one name at once, by any processes; the last to finish stays.
///
/// A file that was there before gives its mode and, where the system lets it, owner and group; a new one has the mode
/// that the umask leaves. A symbolic link is followed, and stays. Where a process was killed its temporary file is left
/// behind; the next writer of that name removes it. One that is still being written is known by its lock (`flock`), and
/// is let be: also one of another host, where the file system shares locks.
class AtomicFile {
 public:
  /// Creates missing parent folders. Throws FileError, also where something other than a regular file has the name.
  explicit AtomicFile(const std::filesystem::path& path);
  /// Removes the temporary file unless `finish` was reached.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Throws FileError.
  void write(std::string_view bytes);
  /// Throws FileError; then the file is not there or, where only its folder could not be flushed, whole.
  void finish();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// An AtomicFile of these parts, one after another. Throws FileError.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::string_view> parts);
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

}  // namespace tapecache
