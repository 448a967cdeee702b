#include "tapecache/models/weights.h"

#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/safetensors.h"

namespace tapecache::models {

void save_weights(const std::filesystem::path& path, std::span<const Parameter> parameters) {
  SafetensorsFile file;
  for (const Parameter& p : parameters) {
    if (!file.tensors.emplace(p.name(), p.value()).second) {
      throw ValueError(fmt::format("{}: two parameters are named '{}'", path.string(), p.name()));
    }
  }
  write_safetensors(path, file);
}

void load_weights(const std::filesystem::path& path, std::span<const Parameter> parameters, bool strict) {
  const SafetensorsFile file = read_safetensors(path);
  std::vector<std::string> problems;
  std::set<std::string> expected;
  std::vector<Tensor> values;
  for (const Parameter& p : parameters) {
    expected.insert(p.name());
    const auto found = file.tensors.find(p.name());
    if (found == file.tensors.end()) {
      problems.push_back(fmt::format("'{}' is missing", p.name()));
    } else if (found->second.shape() != p.value().shape()) {
      problems.push_back(fmt::format("'{}' has shape {}, expected {}", p.name(), to_string(found->second.shape()),
                                     to_string(p.value().shape())));
    } else if (!is_floating(found->second.dtype())) {
      problems.push_back(fmt::format("'{}' is {}, expected a floating type", p.name(), name(found->second.dtype())));
    } else {
      values.push_back(found->second.to(p.value().dtype()).to(p.value().device()));
    }
  }
  for (const auto& [key, tensor] : file.tensors) {
    if (strict && !expected.contains(key)) problems.push_back(fmt::format("'{}' belongs to no parameter", key));
  }
  if (!problems.empty()) {
    throw FileError(fmt::format("{}: these weights do not fit: {}", path.string(), fmt::join(problems, "; ")));
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Parameter parameter = parameters[i];
    parameter.assign(values[i]);
  }
}

}  // namespace tapecache::models
