#include "tapecache/autograd/state.h"
#include "tapecache/models/pretrained.h"

#include <string>
#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/parameter_settings.h"
#include "tapecache/core/assignment.h"
#include "tapecache/core/files.h"
#include "tapecache/models/weight_files.h"
#include "tapecache/models/weight_reader.h"

namespace tapecache::models {

namespace {

void save(const std::filesystem::path& path, const std::vector<Buffer>& state, std::span<const Parameter> parameters,
          const NameInFile& name_in_file) {
  SafetensorsFile file;
  file.metadata.emplace("format", "pt");  // without which other libraries refuse it
  for (const auto& [key, value] : state) {
    if (!file.tensors.emplace(key, value).second) {
      throw ValueError(fmt::format("{}: two parameters are named '{}'", path.string(), key));
    }
  }
  write_settings(file.metadata, parameters, name_in_file);
  write_safetensors(path, file);
}

/// What a builder's name stands before, without it.
std::vector<Buffer> state_under(const Builder& model) {
  std::vector<Buffer> state = state_of(model.parameters(), model.buffers());
  if (model.prefix().empty()) return state;
  const std::string prefix = model.prefix() + ".";
  std::erase_if(state, [&](const Buffer& b) { return !b.name.starts_with(prefix); });
  for (Buffer& b : state) b.name.erase(0, prefix.size());
  return state;
}

/// Their names without the prefix, which files of a builder's own leave out.
NameInFile names_under(const Builder& model) {
  const std::string prefix = model.prefix().empty() ? "" : model.prefix() + ".";
  return [prefix](const Parameter& p) {
    return p.name().starts_with(prefix) ? p.name().substr(prefix.size()) : std::string();
  };
}

std::string own_name(const Parameter& p) { return p.name(); }

void load(const std::filesystem::path& path, const std::vector<Buffer>& state, std::span<const Parameter> parameters,
          const NameInFile& name_without_prefix, const LoadOptions& options) {
  const detail::WeightFiles files(path, {.memory_map = options.memory_map});
  detail::WeightReader reader(files, options);
  std::vector<tapecache::detail::Assignment> assignments;
  for (const auto& [key, own] : state) {
    const Tensor value = reader.value(key, own.shape(), own.dtype());
    if (value.defined()) assignments.push_back({own, value.to(own.device()), value.is_wrapped()});
  }
  reader.require_none(reader.problems(state, parameters, name_without_prefix));
  tapecache::detail::assign(assignments);
}

}  // namespace

void save_weights(const std::filesystem::path& path, std::span<const Parameter> parameters) {
  save(path, state_of(parameters), parameters, own_name);
}

void save_weights(const std::filesystem::path& path, const Builder& model) {
  save(path, state_under(model), model.parameters(), names_under(model));
}

void load_weights(const std::filesystem::path& path, std::span<const Parameter> parameters,
                  const LoadOptions& options) {
  load(path, state_of(parameters), parameters, own_name, options);
}

void load_weights(const std::filesystem::path& path, const Builder& model, const LoadOptions& options) {
  load(path, state_under(model), model.parameters(), names_under(model), options);
}

}  // namespace tapecache::models
