#include "tapecache/train/checkpoint.h"

#include <charconv>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/parameter_settings.h"
#include "tapecache/autograd/state.h"
#include "tapecache/core/assignment.h"
#include "tapecache/core/files.h"

namespace tapecache::train {

namespace {

constexpr const char* kModel = "model.";
constexpr const char* kOptimizer = "optimizer.";
constexpr const char* kStep = "tapecache.step";
constexpr const char* kSeed = "tapecache.seed";
constexpr const char* kOptimizers = "tapecache.optimizers";  // their number, where it is not 1
constexpr std::string_view kNote = "note.";

template <class Integer>
Integer number(const std::filesystem::path& path, const SafetensorsReader& file, const char* key) {
  const std::optional<std::string> text = file.metadata(key);
  Integer value{};
  if (text) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error == std::errc() && end == text->data() + text->size()) return value;
  }
  throw FileError(fmt::format("{}: no training checkpoint: its metadata has no number '{}'", path.string(), key));
}

std::string name_in_file(const Parameter& p) { return kModel + p.name(); }

void require_same_settings(const std::filesystem::path& path, const SafetensorsReader& file,
                           std::span<const Parameter> parameters) {
  const std::vector<std::string> differences = other_settings(path, file, parameters, name_in_file);
  if (!differences.empty()) throw FileError(fmt::format("{}: {}", path.string(), differences.front()));
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

/// Those of the file's tensors that nothing has asked for yet.
class Unread {
 public:
  explicit Unread(const SafetensorsReader& file) : file_(file) {
    for (std::string& name : file.names()) names_.insert(std::move(name));
  }

  bool empty() const { return names_.empty(); }
  const std::string& first() const { return *names_.begin(); }
  Tensor take(const std::string& name) {
    names_.erase(name);
    return file_.read(name);
  }
  /// All whose name begins so, without that.
  std::map<std::string, Tensor> take_all(const std::string& prefix) {
    std::map<std::string, Tensor> taken;
    for (auto at = names_.lower_bound(prefix); at != names_.end() && at->starts_with(prefix); at = names_.erase(at)) {
      taken.emplace(at->substr(prefix.size()), file_.read(*at));
    }
    return taken;
  }

 private:
  const SafetensorsReader& file_;
  std::set<std::string> names_;
};

/// The state of each optimiser.
std::vector<std::map<std::string, Tensor>> states_of(const std::filesystem::path& path, const SafetensorsReader& file,
                                                     Unread& unread, std::size_t count) {
  const std::size_t saved = file.metadata(kOptimizers) ? number<std::size_t>(path, file, kOptimizers) : 1;
  if (saved != count) {
    throw FileError(
        fmt::format("{}: holds the state of {} optimisers, expected that of {}", path.string(), saved, count));
  }
  std::vector<std::map<std::string, Tensor>> states;
  for (std::size_t i = 0; i < count; ++i) states.push_back(unread.take_all(prefix_of(i, count)));
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
  file.metadata = {{"format", "pt"},  // without which other libraries do not take the weights
                   {kStep, std::to_string(position.step)},
                   {kSeed, std::to_string(position.seed)}};
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
  const SafetensorsReader file(path);
  TrainingPosition position{number<std::int64_t>(path, file, kStep), number<std::uint64_t>(path, file, kSeed), {}};
  if (position.step < 0) {
    throw FileError(fmt::format("{}: '{}' is {}, expected at least 0", path.string(), kStep, position.step));
  }
  for (const auto& [key, text] : file.metadata()) {
    if (key.starts_with(kNote)) position.notes.emplace(key.substr(kNote.size()), text);
  }
  Unread unread(file);
  std::vector<detail::Assignment> assignments;
  for (const auto& [name, own] : state_of(parameters, buffers)) {
    const std::string there = kModel + name;
    if (!file.contains(there)) throw FileError(fmt::format("{}: parameter '{}' is missing", path.string(), name));
    const Tensor value = unread.take(there);
    if (value.shape() != own.shape() || value.dtype() != own.dtype()) {
      throw FileError(
          fmt::format("{}: parameter '{}' is {}, expected {}", path.string(), name, describe(value), describe(own)));
    }
    assignments.push_back({own, value.to(own.device())});
  }
  require_same_settings(path, file, parameters);
  const std::vector<std::map<std::string, Tensor>> states = states_of(path, file, unread, optimizers.size());
  if (!unread.empty()) {
    throw FileError(fmt::format("{}: '{}' belongs to no parameter", path.string(), unread.first()));
  }
  try {
    for (std::size_t i = 0; i < states.size(); ++i) optimizers[i]->check_state(states[i]);
  } catch (const OutOfMemory&) {
    throw;
  } catch (const Error& e) {
    throw FileError(fmt::format("{}: {}", path.string(), e.what()));
  }
  for (std::size_t i = 0; i < states.size(); ++i) {
    for (const auto& [name, own] : optimizers[i]->state()) {
      assignments.push_back({own, states[i].at(name).to(own.device())});
    }
  }
  detail::assign(assignments);
  return position;
}

}  // namespace tapecache::train
