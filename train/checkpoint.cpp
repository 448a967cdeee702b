#include "tapecache/train/checkpoint.h"

#include <charconv>
#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/parameter_settings.h"
#include "tapecache/core/safetensors.h"

namespace tapecache::train {

namespace {

constexpr const char* kModel = "model.";
constexpr const char* kOptimizer = "optimizer.";
constexpr const char* kStep = "tapecache.step";
constexpr const char* kSeed = "tapecache.seed";
constexpr const char* kOptimizers = "tapecache.optimizers";  // their number, where it is not 1
constexpr std::string_view kNote = "note.";

template <class Integer>
Integer number(const std::filesystem::path& path, const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata.find(key);
  Integer value{};
  if (found != file.metadata.end()) {
    const std::string& text = found->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size()) return value;
  }
  throw FileError(fmt::format("{}: no training checkpoint: its metadata has no number '{}'", path.string(), key));
}

std::string name_in_file(const Parameter& p) { return kModel + p.name(); }

void require_same_settings(const std::filesystem::path& path, const SafetensorsFile& file,
                           std::span<const Parameter> parameters) {
  try {
    const std::vector<std::string> differences = other_settings(file.metadata, parameters, name_in_file);
    if (!differences.empty()) throw ValueError(differences.front());
  } catch (const ValueError& error) {
    throw FileError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

std::string prefix_of(std::size_t optimizer, std::size_t count) {
  return count == 1 ? kOptimizer : fmt::format("{}{}.", kOptimizer, optimizer);
}

template <class Pointer>
void require_optimizers(const char* call, std::span<Pointer const> optimizers) {
  for (std::size_t i = 0; i < optimizers.size(); ++i) {
    if (!optimizers[i]) throw ValueError(fmt::format("{}: optimiser {} is null, expected an optimiser", call, i));
  }
}

/// Takes the tensors of each optimiser out of the file.
std::vector<std::map<std::string, Tensor>> states_of(const std::filesystem::path& path, SafetensorsFile& file,
                                                     std::size_t count) {
  const std::size_t saved = file.metadata.contains(kOptimizers) ? number<std::size_t>(path, file, kOptimizers) : 1;
  if (saved != count) {
    throw FileError(fmt::format("{}: holds the state of {} optimisers, expected that of {}", path.string(), saved, count));
  }
  std::vector<std::map<std::string, Tensor>> states(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::string prefix = prefix_of(i, count);
    std::erase_if(file.tensors, [&](const auto& entry) {
      if (!entry.first.starts_with(prefix)) return false;
      states[i].emplace(entry.first.substr(prefix.size()), entry.second);
      return true;
    });
  }
  return states;
}

}  // namespace

void save_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                     const Optimizer& optimizer, const TrainingPosition& position, std::span<const Buffer> buffers) {
  const Optimizer* const one = &optimizer;
  save_checkpoint(path, parameters, std::span(&one, 1), position, buffers);
}

void save_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                     std::span<const Optimizer* const> optimizers, const TrainingPosition& position,
                     std::span<const Buffer> buffers) {
  require_optimizers("save_checkpoint", optimizers);
  if (position.step < 0) {
    throw ValueError(fmt::format("save_checkpoint: the step is {}, expected at least 0", position.step));
  }
  SafetensorsFile file;
  for (const auto& [name, value] : state_of(parameters, buffers)) {
    if (!file.tensors.emplace(kModel + name, value).second) {
      throw ValueError(fmt::format("{}: two parameters are named '{}'", path.string(), name));
    }
  }
  for (std::size_t i = 0; i < optimizers.size(); ++i) {
    const std::string prefix = prefix_of(i, optimizers.size());
    for (const auto& [name, tensor] : optimizers[i]->state()) file.tensors.emplace(prefix + name, tensor);
  }
  file.metadata = {{kStep, std::to_string(position.step)}, {kSeed, std::to_string(position.seed)}};
  if (optimizers.size() != 1) file.metadata.emplace(kOptimizers, std::to_string(optimizers.size()));
  for (const auto& [key, text] : position.notes) file.metadata.emplace(std::string(kNote) + key, text);
  write_settings(file.metadata, parameters, name_in_file);
  write_safetensors(path, file);
}

TrainingPosition load_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                                 Optimizer& optimizer, std::span<const Buffer> buffers) {
  Optimizer* const one = &optimizer;
  return load_checkpoint(path, parameters, std::span(&one, 1), buffers);
}

TrainingPosition load_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                                 std::span<Optimizer* const> optimizers, std::span<const Buffer> buffers) {
  require_optimizers("load_checkpoint", optimizers);
  SafetensorsFile file = read_safetensors(path);
  TrainingPosition position{number<std::int64_t>(path, file, kStep), number<std::uint64_t>(path, file, kSeed), {}};
  if (position.step < 0) {
    throw FileError(fmt::format("{}: '{}' is {}, expected at least 0", path.string(), kStep, position.step));
  }
  for (const auto& [key, text] : file.metadata) {
    if (key.starts_with(kNote)) position.notes.emplace(key.substr(kNote.size()), text);
  }
  std::vector<Buffer> model = state_of(parameters, buffers);
  std::vector<Tensor> values;
  for (const auto& [name, own] : model) {
    const auto found = file.tensors.find(kModel + name);
    if (found == file.tensors.end()) {
      throw FileError(fmt::format("{}: parameter '{}' is missing", path.string(), name));
    }
    const Tensor& value = found->second;
    if (value.shape() != own.shape() || value.dtype() != own.dtype()) {
      throw FileError(fmt::format("{}: parameter '{}' is {}, expected {}", path.string(), name, describe(value),
                                  describe(own)));
    }
    values.push_back(value.to(own.device()));
    file.tensors.erase(found);
  }
  require_same_settings(path, file, parameters);
  std::vector<std::map<std::string, Tensor>> states = states_of(path, file, optimizers.size());
  if (!file.tensors.empty()) {
    throw FileError(fmt::format("{}: '{}' belongs to no parameter", path.string(), file.tensors.begin()->first));
  }
  try {
    for (std::size_t i = 0; i < states.size(); ++i) optimizers[i]->check_state(states[i]);
  } catch (const Error& e) {
    throw FileError(fmt::format("{}: {}", path.string(), e.what()));
  }
  for (std::size_t i = 0; i < states.size(); ++i) states[i] = optimizers[i]->state_in_place(states[i]);
  for (std::size_t i = 0; i < states.size(); ++i) optimizers[i]->load_state(states[i]);
  for (std::size_t i = 0; i < model.size(); ++i) model[i].value.copy_from(values[i]);
  return position;
}

}  // namespace tapecache::train
