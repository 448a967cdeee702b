#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tapecache/core/files.h"
#include "tapecache/core/json_fields.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

using tapecache::detail::Json;
using tapecache::detail::JsonFields;
using tapecache::detail::Problems;

/// A folder within a folder, or that itself where there is no such part. No path ends in a slash: one that does is
/// appended to by libstdc++ in a way that frees what is not its own where memory runs out.
std::filesystem::path folder_within(const std::filesystem::path& folder, const std::filesystem::path& part = {});

/// A tensor under another name than in its file: itself, some of its rows, its transposed, or, of several that have one
/// name, the rows of one after those of another.
struct RenamedTensor {
  std::string name;
  std::optional<std::pair<std::int64_t, std::int64_t>> rows = {};  ///< [begin, end)
  bool transposed = false;
  bool without_first = false;  ///< its first size, which is 1
  int place = 0;               ///< among those that have its name
};

/// A copy of a matrix of the host.
Tensor transposed(const Tensor& matrix);
/// The rows of several tensors, of which the other sizes are equal, one after another on the host.
Tensor joined_rows(std::span<const Tensor> parts);

/// The tensors of a safetensors file, or of the shards that an index names.
class WeightFiles {
 public:
  /// One file. Throws as SafetensorsReader.
  explicit WeightFiles(const std::filesystem::path& file, const SafetensorsOptions& options = {});
  /// `NAME.safetensors` of a folder or, where there is none, the shards of `NAME.safetensors.index.json`. Throws
  /// FileError where there is neither, and for an index that is malformed, names a file that is not there, or a tensor
  /// that its file has not.
  static WeightFiles of_folder(const std::filesystem::path& folder, const std::string& name,
                               const SafetensorsOptions& options = {});

  /// The file, or the index.
  const std::filesystem::path& path() const { return path_; }
  /// Where a tensor is, for messages; `path` where there is none.
  const std::filesystem::path& path_of(std::string_view name) const;
  /// Of all tensors, ascending.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const { return places_.find(name) != places_.end(); }
  /// Throws FileError where there is no such tensor.
  SafetensorsReader::Entry entry(std::string_view name) const;
  Tensor read(std::string_view name, DType dtype) const;
  std::optional<std::string> metadata(std::string_view key) const;
  /// The files themselves.
  const std::vector<std::pair<std::filesystem::path, SafetensorsReader>>& shards() const { return shards_; }

  /// The same tensors under other names: those that `renamed` gives for each name and its sizes, which may be none.
  /// What follows from the values is copied, also of a mapped file.
  void rename(const std::function<std::vector<RenamedTensor>(const std::string& name,
                                                             const SafetensorsReader::Entry& entry)>& renamed);

 private:
  struct Part {
    std::size_t shard = 0;
    RenamedTensor there = {};  // the name in the file, and what is taken of it
  };
  using Place = std::vector<Part>;  // whose rows follow one another; not empty
  explicit WeightFiles() = default;
  const Place& place(std::string_view name) const;
  SafetensorsReader::Entry entry(const Part& part) const;
  Tensor read(const Part& part, DType dtype) const;
  void add_all(std::size_t shard);

  std::filesystem::path path_;
  std::vector<std::pair<std::filesystem::path, SafetensorsReader>> shards_;
  std::map<std::string, Place, std::less<>> places_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
