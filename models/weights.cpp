#include "tapecache/models/weights.h"

#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/safetensors.h"

namespace tapecache::models {

namespace {

void save(const std::filesystem::path& path, const std::vector<Buffer>& state) {
  SafetensorsFile file;
  for (const auto& [name, value] : state) {
    if (!file.tensors.emplace(name, value).second) {
      throw ValueError(fmt::format("{}: two parameters are named '{}'", path.string(), name));
    }
  }
  write_safetensors(path, file);
}

void load(const std::filesystem::path& path, std::vector<Buffer> state, bool strict) {
  const SafetensorsFile file = read_safetensors(path);
  std::vector<std::string> problems;
  std::set<std::string> expected;
  std::vector<Tensor> values;
  for (const auto& [key, value] : state) {
    expected.insert(key);
    const auto found = file.tensors.find(key);
    if (found == file.tensors.end()) {
      problems.push_back(fmt::format("'{}' is missing", key));
    } else if (found->second.shape() != value.shape()) {
      problems.push_back(fmt::format("'{}' has shape {}, expected {}", key, to_string(found->second.shape()),
                                     to_string(value.shape())));
    } else if (!is_floating(found->second.dtype())) {
      problems.push_back(fmt::format("'{}' is {}, expected a floating type", key, name(found->second.dtype())));
    } else {
      values.push_back(found->second.to(value.dtype()).to(value.device()));
    }
  }
  for (const auto& [key, tensor] : file.tensors) {
    if (strict && !expected.contains(key)) problems.push_back(fmt::format("'{}' belongs to no parameter", key));
  }
  if (!problems.empty()) {
    throw FileError(fmt::format("{}: these weights do not fit: {}", path.string(), fmt::join(problems, "; ")));
  }
  for (std::size_t i = 0; i < state.size(); ++i) state[i].value.copy_from(values[i]);
}

}  // namespace

void save_weights(const std::filesystem::path& path, std::span<const Parameter> parameters) {
  save(path, state_of(parameters));
}

void save_weights(const std::filesystem::path& path, const Builder& model) {
  save(path, state_of(model.parameters(), model.buffers()));
}

void load_weights(const std::filesystem::path& path, std::span<const Parameter> parameters, bool strict) {
  load(path, state_of(parameters), strict);
}

void load_weights(const std::filesystem::path& path, const Builder& model, bool strict) {
  load(path, state_of(model.parameters(), model.buffers()), strict);
}

}  // namespace tapecache::models
