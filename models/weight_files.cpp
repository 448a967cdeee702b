#include "tapecache/models/weight_files.h"

#include <cstring>
#include <system_error>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/json.h"

namespace tapecache::models::detail {

namespace {

using tapecache::detail::Json;

/// A name of a file beside the index, and of no other.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

}  // namespace

Tensor transposed(const Tensor& matrix) {
  const std::int64_t rows = matrix.size(0), columns = matrix.size(1);
  Tensor result = Tensor::empty({columns, rows}, matrix.dtype());
  const std::size_t width = size_of(matrix.dtype());
  std::byte* to = result.mutable_raw();
  for (std::int64_t column = 0; column < columns; ++column) {
    for (std::int64_t row = 0; row < rows; ++row, to += width) {
      std::memcpy(to, matrix.raw() + static_cast<std::size_t>(row * columns + column) * width, width);
    }
  }
  return result;
}

WeightFiles::WeightFiles(const std::filesystem::path& file, const SafetensorsOptions& options) : path_(file) {
  shards_.emplace_back(file, SafetensorsReader(file, options));
  add_all(0);
}

void WeightFiles::add_all(std::size_t shard) {
  for (std::string& name : shards_[shard].second.names()) {
    Place place{shard, {name}};
    places_.emplace(std::move(name), std::move(place));
  }
}

WeightFiles WeightFiles::of_folder(const std::filesystem::path& folder, const std::string& name,
                                   const SafetensorsOptions& options) {
  const std::filesystem::path whole = folder / (name + ".safetensors"), index = whole.string() + ".index.json";
  std::error_code error;
  if (std::filesystem::exists(whole, error)) return WeightFiles(whole, options);
  if (!std::filesystem::exists(index, error)) {
    throw FileError(fmt::format("{}: is missing, and so is {}", whole.string(), index.filename().string()));
  }
  WeightFiles files;
  files.path_ = index;
  const Json json = tapecache::detail::read_json(index);
  const Json* const map = json.find("weight_map");
  if (!map || !map->is(Json::Kind::kObject)) {
    throw FileError(
        fmt::format("{}: weight_map is {}, expected an object", index.string(), map ? map->brief() : "missing"));
  }
  std::map<std::string, std::size_t> shard_of;
  for (const auto& [tensor, file] : map->members) {
    if (!file.is(Json::Kind::kString) || !is_plain_name(file.text)) {
      throw FileError(fmt::format("{}: weight_map.{} is {}, expected the name of a file of the folder", index.string(),
                                  tensor, file.brief()));
    }
    const auto [shard, is_new] = shard_of.emplace(file.text, files.shards_.size());
    if (is_new) {
      const std::filesystem::path path = folder / file.text;
      if (!std::filesystem::exists(path, error)) {
        throw FileError(
            fmt::format("{}: weight_map.{} names '{}', which is missing", index.string(), tensor, file.text));
      }
      files.shards_.emplace_back(path, SafetensorsReader(path, options));
    }
    if (!files.shards_[shard->second].second.contains(tensor)) {
      throw FileError(fmt::format("{}: weight_map names '{}' for tensor '{}', which it has not", index.string(),
                                  file.text, tensor));
    }
    files.places_[tensor] = {shard->second, {tensor}};
  }
  return files;
}

const WeightFiles::Place& WeightFiles::place(std::string_view name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) throw FileError(fmt::format("{}: tensor '{}': is missing", path_.string(), name));
  return found->second;
}

const std::filesystem::path& WeightFiles::path_of(std::string_view name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? path_ : shards_[found->second.shard].first;
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

SafetensorsReader::Entry WeightFiles::entry(std::string_view name) const {
  const Place& found = place(name);
  SafetensorsReader::Entry entry = shards_[found.shard].second.entry(found.there.name);
  if (found.there.rows) entry.sizes.front() = found.there.rows->second - found.there.rows->first;
  if (found.there.transposed) std::swap(entry.sizes[0], entry.sizes[1]);
  return entry;
}

Tensor WeightFiles::read(std::string_view name, DType dtype) const {
  const Place& found = place(name);
  Tensor value = shards_[found.shard].second.read(found.there.name, dtype);
  // A part is a copy, so that the whole is not kept for its sake.
  if (found.there.rows) value = value.slice(found.there.rows->first, found.there.rows->second).clone();
  return found.there.transposed ? transposed(value) : value;
}

std::optional<std::string> WeightFiles::metadata(std::string_view key) const {
  for (const auto& [path, shard] : shards_) {
    if (std::optional<std::string> found = shard.metadata(key)) return found;
  }
  return std::nullopt;
}

void WeightFiles::rename(
    const std::function<std::vector<RenamedTensor>(const std::string&, const SafetensorsReader::Entry&)>& renamed) {
  std::map<std::string, Place, std::less<>> places;
  for (const auto& [name, place] : places_) {
    for (RenamedTensor& now : renamed(name, entry(name))) {
      Place moved{place.shard, {place.there.name, now.rows, now.transposed}};
      places.emplace(std::move(now.name), std::move(moved));
    }
  }
  places_ = std::move(places);
}

}  // namespace tapecache::models::detail
