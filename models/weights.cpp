#include "tapecache/models/weights.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/autograd/parameter_settings.h"
#include "tapecache/core/safetensors.h"
#include "tapecache/ops/update.h"

namespace tapecache::models {

namespace {

void save(const std::filesystem::path& path, const std::vector<Buffer>& state, std::span<const Parameter> parameters,
          const NameInFile& name_in_file) {
  SafetensorsFile file;
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
  return [prefix](const Parameter& p) { return p.name().starts_with(prefix) ? p.name().substr(prefix.size()) : std::string(); };
}

std::string own_name(const Parameter& p) { return p.name(); }

/// Appends the first few of one kind of problem, and how many more there are.
void append_some(std::vector<std::string>& all, const std::vector<std::string>& kind, const char* what) {
  constexpr std::size_t kListed = 8;
  all.insert(all.end(), kind.begin(), kind.begin() + static_cast<std::ptrdiff_t>(std::min(kind.size(), kListed)));
  if (kind.size() > kListed) all.push_back(fmt::format("and {} more {}", kind.size() - kListed, what));
}

/// The prefix, if there is one, under which the file has all of these names.
std::optional<std::string> common_prefix(const SafetensorsFile& file, const std::vector<std::string>& names) {
  if (names.empty()) return std::nullopt;
  for (const auto& [key, tensor] : file.tensors) {
    if (!key.ends_with(names.front())) continue;
    const std::string prefix = key.substr(0, key.size() - names.front().size());
    if (!prefix.empty() && !prefix.ends_with('.')) continue;
    if (std::ranges::all_of(names, [&](const std::string& n) { return file.tensors.contains(prefix + n); })) return prefix;
  }
  return std::nullopt;
}

bool is_position_ids(std::string_view key, const Tensor& tensor) {
  return key.ends_with("position_ids") && !is_floating(tensor.dtype());
}

/// How many values are NaN or Inf; those of 16 bits are counted as f32, for which alone (and f64) there is a kernel.
std::int64_t non_finite_among(const Tensor& tensor) {
  const Tensor counted = tensor.dtype() == DType::kFloat64 ? tensor : tensor.to(DType::kFloat32);
  return static_cast<std::int64_t>(ops::count_non_finite(std::span(&counted, 1)).item());
}

/// What a file's tensors do not fit, for one message.
struct Misfits {
  std::vector<std::string> missing;  // without the prefix
  std::vector<std::string> wrong, differing, surplus;

  void throw_any(const std::filesystem::path& path, const SafetensorsFile& file, const std::string& prefix) const {
    std::vector<std::string> absent, problems;
    for (const std::string& key : missing) absent.push_back(fmt::format("'{}{}' is missing", prefix, key));
    append_some(problems, absent, "are missing");
    append_some(problems, wrong, "do not fit");
    append_some(problems, differing, "were saved with other settings");
    append_some(problems, surplus, "belong to none");
    if (problems.empty()) return;
    if (const std::optional<std::string> other = common_prefix(file, missing)) {
      problems.push_back(fmt::format("all that is missing is there with LoadOptions::prefix \"{}\"", *other));
    }
    throw FileError(fmt::format("{}: these weights do not fit: {}", path.string(), fmt::join(problems, "; ")));
  }
};

std::vector<std::string> checked_settings(const std::filesystem::path& path, const SafetensorsFile& file,
                                          std::span<const Parameter> parameters, const NameInFile& name_in_file) {
  try {
    return other_settings(file.metadata, parameters, name_in_file);
  } catch (const ValueError& error) {
    throw FileError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

void load(const std::filesystem::path& path, std::vector<Buffer> state, std::span<const Parameter> parameters,
          const NameInFile& name_without_prefix, const LoadOptions& options) {
  const SafetensorsFile file = read_safetensors(path);
  Misfits misfits;
  std::set<std::string> expected;
  std::vector<Tensor> values;
  for (const auto& [key, value] : state) {
    const std::string name_there = options.prefix + key;
    expected.insert(name_there);
    const auto found = file.tensors.find(name_there);
    if (found == file.tensors.end()) {
      misfits.missing.push_back(key);
      continue;
    }
    const Tensor& given = found->second;
    if (given.shape() != value.shape()) {
      misfits.wrong.push_back(fmt::format("'{}' has shape {}, expected {}", name_there, to_string(given.shape()),
                                          to_string(value.shape())));
    } else if (!is_floating(given.dtype())) {
      misfits.wrong.push_back(fmt::format("'{}' is {}, expected a floating type", name_there, name(given.dtype())));
    } else {
      const Tensor& converted = values.emplace_back(given.to(value.dtype()));
      const std::int64_t first = options.allow_non_finite ? -1 : first_non_finite(converted);
      if (first < 0) continue;
      misfits.wrong.push_back(fmt::format("'{}' has {} NaN or Inf among {} values, the first at {}", name_there,
                                          non_finite_among(converted), converted.numel(), first));
    }
  }
  for (const auto& [key, tensor] : file.tensors) {
    if (!options.strict || !key.starts_with(options.prefix) || expected.contains(key) || is_position_ids(key, tensor)) continue;
    misfits.surplus.push_back(fmt::format("'{}' belongs to no parameter", key));
  }
  if (!options.allow_other_settings) {
    misfits.differing = checked_settings(path, file, parameters, [&](const Parameter& p) {
      const std::string own = name_without_prefix(p);
      return own.empty() ? own : options.prefix + own;
    });
  }
  misfits.throw_any(path, file, options.prefix);
  for (std::size_t i = 0; i < state.size(); ++i) values[i] = values[i].to(state[i].value.device());
  for (std::size_t i = 0; i < state.size(); ++i) state[i].value.copy_from(values[i]);
}

}  // namespace

void save_weights(const std::filesystem::path& path, std::span<const Parameter> parameters) {
  save(path, state_of(parameters), parameters, own_name);
}

void save_weights(const std::filesystem::path& path, const Builder& model) {
  save(path, state_under(model), model.parameters(), names_under(model));
}

void load_weights(const std::filesystem::path& path, std::span<const Parameter> parameters, const LoadOptions& options) {
  load(path, state_of(parameters), parameters, own_name, options);
}

void load_weights(const std::filesystem::path& path, const Builder& model, const LoadOptions& options) {
  load(path, state_under(model), model.parameters(), names_under(model), options);
}

}  // namespace tapecache::models
