#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// A file that appears whole under its name or not at all: it is written under a temporary name in the same folder,
/// `NAME.tmp-` and 16 hexadecimal digits, flushed to disk with its folder, and renamed. Several may be written under
/// one name at once, by any processes; the last to finish stays.
///
/// A file that was there before gives its mode and, where the system lets it, owner and group; a new one has the mode
/// that the umask leaves. A symbolic link is followed and kept. A process that is killed leaves its temporary file
/// behind, and the next writer of that name removes it. It does not touch a file that is still being written, which it
/// recognises by its lock (`flock`), on another host too if the file system shares locks.
class AtomicFile {
 public:
  /// Creates the temporary file and missing parent folders. Throws FileError, also if the name is that of something
  /// other than a regular file.
  explicit AtomicFile(const std::filesystem::path& path);
  /// Removes the temporary file unless `finish` was reached.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Throws FileError.
  void write(std::string_view bytes);
  /// Gives the file its name. Throws FileError: then there is no file under the name or, if only the folder could not
  /// be flushed, a whole one.
  void finish();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Writes these parts, one after another, as an AtomicFile. Throws FileError.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::string_view> parts);
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// The contents of a safetensors file: tensors by name, and texts by key (the format's `__metadata__`).
struct SafetensorsFile {
  std::map<std::string, Tensor> tensors = {};
  std::map<std::string, std::string> metadata = {};
};

struct SafetensorsOptions {
  /// Map the file into memory and return tensors that view it instead of copies. Pages that are never touched are never
  /// read, and processes that map the same file share its pages. Writes to a tensor stay private to this process (copy
  /// on write); the file is never changed. The mapping lives until the last tensor that views it is destroyed, even if
  /// the reader is gone and the file was removed or replaced by renaming.
  ///
  /// Danger: a program that writes into the file in place changes these tensors, and one that truncates it kills this
  /// process, since touching a page that no longer exists raises SIGBUS (reading would throw FileError instead). Use
  /// this only for files that are replaced as a whole and never overwritten in place; hence it is off by default.
  ///
  /// Some tensors are copied even so: those that are converted, those whose bytes are not aligned to their element type
  /// within the file, bools, and those smaller than 64 KiB.
  bool memory_map = false;
};

/// A file in the safetensors format (https://github.com/huggingface/safetensors). Only the header is read until a
/// tensor is requested. The file stays open, so a file that replaces it meanwhile is not seen.
///
/// Reads what the reference implementation reads, with these differences. A tensor whose type or number of axes this
/// library does not support is an error only when it is requested, even if the reference does not know the type either.
/// Duplicate names or keys, an array in the place of an entry, nesting deeper than three objects or arrays, more than
/// 255 axes, more than 65,536 metadata keys, and names or texts above 4 MiB are refused. A header therefore takes at
/// most twice its own size in memory, plus a few MiB.
class SafetensorsReader {
 public:
  /// A tensor as the header describes it.
  struct Entry {
    std::string type;                 ///< as the file spells it, such as "F32"
    std::optional<DType> dtype;       ///< empty if this library has no such type
    std::vector<std::int64_t> sizes;  ///< of its axes
  };

  /// Throws FileError naming the path if the file is missing, not a regular file, truncated or malformed.
  explicit SafetensorsReader(const std::filesystem::path& path, const SafetensorsOptions& options = {});
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;

  std::map<std::string, std::string> metadata() const;
  std::optional<std::string> metadata(std::string_view key) const;
  /// The names of all tensors, in ascending order.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const;
  /// Throws FileError if there is no such tensor.
  Entry entry(std::string_view name) const;
  /// Reads a tensor to the host, in its own type or converted piece by piece to another. Throws FileError naming the
  /// tensor if it does not exist, if this library does not support its type or shape, or if the file was truncated
  /// meanwhile; and OutOfMemory. Tensors of two calls share no memory.
  Tensor read(std::string_view name) const;
  Tensor read(std::string_view name, DType dtype) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Reads all of a file. Throws as SafetensorsReader.
SafetensorsFile read_safetensors(const std::filesystem::path& path, const SafetensorsOptions& options = {});

/// Writes atomically: the file appears complete under its name or not at all. Tensors on a device are copied to the
/// host one by one. Throws FileError, also if the metadata exceeds what `SafetensorsReader` accepts.
void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file);

}  // namespace tapecache
