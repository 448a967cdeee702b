#include "tapecache/models/weight_files.h"

#include <algorithm>
#include <cstring>
#include <system_error>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/json.h"

namespace tapecache::models::detail {

namespace {

/// A name of a file beside the index, and of no other.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

}  // namespace

std::filesystem::path folder_within(const std::filesystem::path& folder, const std::filesystem::path& part) {
  const bool ends_in_slash = !folder.has_filename() && folder.has_relative_path();
  std::filesystem::path whole = ends_in_slash ? folder.parent_path() : folder;
  if (!part.empty()) whole /= part;
  return whole;
}

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

Tensor joined_rows(std::span<const Tensor> parts) {
  Shape shape = parts.front().shape();
  std::int64_t rows = 0;
  for (const Tensor& part : parts) rows += part.size(0);
  Tensor all = Tensor::empty(shape.with(0, rows), parts.front().dtype());
  rows = 0;
  for (const Tensor& part : parts) {
    all.slice(rows, rows + part.size(0)).copy_from(part.to(Device::cpu()));
    rows += part.size(0);
  }
  return all;
}

WeightFiles::WeightFiles(const std::filesystem::path& file, const SafetensorsOptions& options) : path_(file) {
  shards_.emplace_back(file, SafetensorsReader(file, options));
  add_all(0);
}

void WeightFiles::add_all(std::size_t shard) {
  for (std::string& name : shards_[shard].second.names()) {
    Place place{Part{shard, {name}}};
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
    files.places_[tensor] = {Part{shard->second, {tensor}}};
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
  return found == places_.end() ? path_ : shards_[found->second.front().shard].first;
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

SafetensorsReader::Entry WeightFiles::entry(const Part& part) const {
  SafetensorsReader::Entry entry = shards_[part.shard].second.entry(part.there.name);
  if (part.there.rows) entry.sizes.front() = part.there.rows->second - part.there.rows->first;
  if (part.there.transposed) std::swap(entry.sizes[0], entry.sizes[1]);
  if (part.there.without_first) entry.sizes.erase(entry.sizes.begin());
  return entry;
}

SafetensorsReader::Entry WeightFiles::entry(std::string_view name) const {
  const Place& parts = place(name);
  SafetensorsReader::Entry all = entry(parts.front());
  for (const Part& part : std::span(parts).subspan(1)) {
    const SafetensorsReader::Entry next = entry(part);
    // Parts that do not fit one another do not fit what they are for.
    const bool fits = !all.sizes.empty() && all.sizes.size() == next.sizes.size() && all.dtype == next.dtype &&
                      std::equal(all.sizes.begin() + 1, all.sizes.end(), next.sizes.begin() + 1);
    if (!fits) return next;
    all.sizes.front() += next.sizes.front();
  }
  return all;
}

Tensor WeightFiles::read(const Part& part, DType dtype) const {
  Tensor value = shards_[part.shard].second.read(part.there.name, dtype);
  // A part is a copy, so that the whole is not kept for its sake.
  if (part.there.rows) value = value.slice(part.there.rows->first, part.there.rows->second).clone();
  if (part.there.transposed) value = transposed(value);
  return part.there.without_first ? value.reshape(value.shape().without(0)) : value;
}

Tensor WeightFiles::read(std::string_view name, DType dtype) const {
  const Place& parts = place(name);
  if (parts.size() == 1) return read(parts.front(), dtype);
  std::vector<Tensor> rows;
  for (const Part& part : parts) rows.push_back(read(part, dtype));
  return joined_rows(rows);
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
      std::string own = std::move(now.name);
      now.name = place.front().there.name;
      places[std::move(own)].push_back({place.front().shard, std::move(now)});
    }
  }
  for (auto& [name, parts] : places) std::ranges::stable_sort(parts, {}, [](const Part& p) { return p.there.place; });
  places_ = std::move(places);
}

}  // namespace tapecache::models::detail
