#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/core/tensor.h"

namespace tapecache {

/// The contents of a safetensors file: tensors by name, and free text by key (the format's `__metadata__`).
struct SafetensorsFile {
  std::map<std::string, Tensor> tensors = {};
  std::map<std::string, std::string> metadata = {};
};

struct SafetensorsOptions {
  /// Tensors are views of the file, mapped into memory, in the place of copies: what is not touched is not read, and
  /// processes that map one file share its pages. What is written to a tensor is this process's alone (copy on write),
  /// page by page; the file is never changed. A mapping lives as long as the last tensor that views it, whatever
  /// becomes of the reader and of the file's name: the file may be removed, and another be put in its place by
  /// renaming.
  ///
  /// But whoever writes into the file itself changes tensors, and whoever truncates it ends the process: a page that
  /// the file no longer has raises SIGBUS when it is touched, where reading throws FileError. So this is off by
  /// default, and only for files that are replaced and never written over.
  ///
  /// Copied all the same is what cannot be a view: a tensor that is converted, one whose bytes are not aligned to its
  /// element type in the file, flags (BOOL), and what is smaller than 64 KiB.
  bool memory_map = false;
};

/// A file in the safetensors format (https://github.com/huggingface/safetensors), of which only the header is read
/// until a tensor is asked for. The file stays open: what others put in its place meanwhile does not show.
///
/// What the reference implementation reads is read, with these differences. A tensor of a type or with a number of axes
/// that this library has none for, or of a type that the reference does not know either, is an error only where it is
/// asked for. Refused are names and keys that a header has twice, an entry that is an array, what is nested in more
/// than three objects or arrays, more than 255 axes, more than 65,536 keys of metadata, and a name or text of more than
/// 4 MiB. So a header takes at most twice its own size of memory, but for a few MiB.
class SafetensorsReader {
 public:
  /// What the header says of a tensor.
  struct Entry {
    std::string type;                 ///< as the file names it, such as "F32"
    std::optional<DType> dtype;       ///< none where this library has no such type
    std::vector<std::int64_t> sizes;  ///< of its axes
  };

  /// Throws FileError naming the path where it is missing, not a regular file, truncated or malformed.
  explicit SafetensorsReader(const std::filesystem::path& path, const SafetensorsOptions& options = {});
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;

  std::map<std::string, std::string> metadata() const;
  std::optional<std::string> metadata(std::string_view key) const;
  /// Of all tensors, ascending.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const;
  /// Throws FileError where there is no such tensor.
  Entry entry(std::string_view name) const;
  /// The tensor on the host, of its own type or converted piece by piece to another. Throws FileError naming it where
  /// there is none, this library has no such type or shape, or the file has been cut since; and OutOfMemory. Tensors of
  /// two calls share nothing.
  Tensor read(std::string_view name) const;
  Tensor read(std::string_view name, DType dtype) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Reads all of a file. Throws as SafetensorsReader.
SafetensorsFile read_safetensors(const std::filesystem::path& path, const SafetensorsOptions& options = {});

/// Writes atomically: the file appears whole under its name or not at all. Tensors of a device come to the host one
/// after another. Throws FileError, also where the metadata is more than is read.
void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file);

}  // namespace tapecache
