#include "tapecache/train/checkpoint.h"

#include <charconv>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/safetensors.h"

namespace tapecache::train {

namespace {

constexpr const char* kModel = "model.";
constexpr const char* kOptimizer = "optimizer.";
constexpr const char* kStep = "tapecache.step";
constexpr const char* kSeed = "tapecache.seed";
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

}  // namespace

void save_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                     const Optimizer& optimizer, const TrainingPosition& position, std::span<const Buffer> buffers) {
  SafetensorsFile file;
  for (const auto& [name, value] : state_of(parameters, buffers)) {
    if (!file.tensors.emplace(kModel + name, value).second) {
      throw ValueError(fmt::format("{}: two parameters are named '{}'", path.string(), name));
    }
  }
  for (const auto& [name, tensor] : optimizer.state()) file.tensors.emplace(kOptimizer + name, tensor);
  file.metadata = {{kStep, std::to_string(position.step)}, {kSeed, std::to_string(position.seed)}};
  for (const auto& [key, text] : position.notes) file.metadata.emplace(std::string(kNote) + key, text);
  write_safetensors(path, file);
}

TrainingPosition load_checkpoint(const std::filesystem::path& path, std::span<const Parameter> parameters,
                                 Optimizer& optimizer, std::span<const Buffer> buffers) {
  SafetensorsFile file = read_safetensors(path);
  TrainingPosition position{number<std::int64_t>(path, file, kStep), number<std::uint64_t>(path, file, kSeed), {}};
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
  std::map<std::string, Tensor> state;
  for (const auto& [name, tensor] : file.tensors) {
    if (!name.starts_with(kOptimizer)) {
      throw FileError(fmt::format("{}: '{}' belongs to no parameter", path.string(), name));
    }
    state.emplace(name.substr(std::string_view(kOptimizer).size()), tensor);
  }
  try {
    optimizer.load_state(state);
  } catch (const Error& e) {
    throw FileError(fmt::format("{}: {}", path.string(), e.what()));
  }
  for (std::size_t i = 0; i < model.size(); ++i) model[i].value.copy_from(values[i]);
  return position;
}

}  // namespace tapecache::train
