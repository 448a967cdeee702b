#include "tapecache/models/weights.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/autograd/parameter_settings.h"
#include "tapecache/core/assignment.h"
#include "tapecache/core/safetensors.h"
#include "tapecache/ops/update.h"

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

/// Appends the first few of one kind of problem, and how many more there are.
void append_some(std::vector<std::string>& all, const std::vector<std::string>& kind, const char* what) {
  constexpr std::size_t kListed = 8;
  all.insert(all.end(), kind.begin(), kind.begin() + static_cast<std::ptrdiff_t>(std::min(kind.size(), kListed)));
  if (kind.size() > kListed) all.push_back(fmt::format("and {} more {}", kind.size() - kListed, what));
}

/// The prefix, if there is one, under which the file has all of these names.
std::optional<std::string> common_prefix(const SafetensorsReader& file, const std::vector<std::string>& names) {
  if (names.empty()) return std::nullopt;
  for (const std::string& key : file.names()) {
    if (!key.ends_with(names.front())) continue;
    const std::string prefix = key.substr(0, key.size() - names.front().size());
    if (!prefix.empty() && !prefix.ends_with('.')) continue;
    if (std::ranges::all_of(names, [&](const std::string& n) { return file.contains(prefix + n); })) return prefix;
  }
  return std::nullopt;
}

/// What stands for a name in the file: itself or, of tied tensors that were written once, the one that the metadata
/// gives as its other name (as `safetensors.torch.save_model` does). Empty where there is none.
std::string stored_as(const SafetensorsReader& file, const std::string& name) {
  if (file.contains(name)) return name;
  const std::optional<std::string> alias = file.metadata(name);
  return alias && file.contains(*alias) ? *alias : "";
}

/// A norm's name in checkpoints that were converted from TensorFlow's; empty for what is no norm's.
std::string older_spelling(const std::string& name, const Tensor& value) {
  if (value.rank() != 1) return "";
  for (const auto& [now, then] : {std::pair("weight", "gamma"), std::pair("bias", "beta")}) {
    const std::string_view ending(now);
    if (!name.ends_with(ending)) continue;
    const std::string before = name.substr(0, name.size() - ending.size());
    if (before.ends_with('.')) return before + then;
  }
  return "";
}

/// Whether a tensor is bookkeeping that other libraries write with a model's weights: integers that follow from its
/// shapes, or a count of steps.
bool is_bookkeeping(std::string_view name, const SafetensorsReader::Entry& entry) {
  constexpr const char* kNames[] = {"position_ids", "token_type_ids", "num_batches_tracked", "relative_position_index"};
  if (entry.dtype && is_floating(*entry.dtype)) return false;
  return std::ranges::any_of(kNames, [&](const char* known) {
    return name.ends_with(known) &&
           (name.size() == std::strlen(known) || name[name.size() - std::strlen(known) - 1] == '.');
  });
}

/// The names under which published files of BERT's kind have heads that are no part of the encoder: its pooler, and the
/// heads of what it was trained for, which are beside it. Those that the model has too are left out.
std::vector<std::string> heads_beside(const std::vector<Buffer>& state) {
  constexpr std::string_view kKnownBy = "embeddings.word_embeddings.weight";
  std::vector<std::string> heads;
  for (const Buffer& b : state) {
    if (!b.name.ends_with(kKnownBy)) continue;
    const std::string within = b.name.substr(0, b.name.size() - kKnownBy.size());
    if (!within.empty() && !within.ends_with('.')) continue;
    const std::size_t dot = within.empty() ? std::string::npos : within.rfind('.', within.size() - 2);
    const std::string beside = dot == std::string::npos ? "" : within.substr(0, dot + 1);
    heads.push_back(within + "pooler.");
    for (const char* head : {"cls.", "lm_head.", "classifier.", "qa_outputs."}) {
      heads.push_back(within + head);
      heads.push_back(beside + head);
    }
  }
  std::erase_if(heads, [&](const std::string& head) {
    return std::ranges::any_of(state, [&](const Buffer& b) { return b.name.starts_with(head); });
  });
  return heads;
}

/// The numbered parts of names, as the blocks of an encoder: what stands before a number and after it, and the largest
/// one.
class Series {
 public:
  explicit Series(const std::vector<Buffer>& state) {
    for (const Buffer& b : state) {
      for_each_number(b.name, [&](const std::string& before, std::uint64_t number, const std::string& after) {
        known_.insert(before + '\n' + after);
        const auto [last, added] = last_.emplace(before, number);
        if (!added) last->second = std::max(last->second, number);
      });
    }
  }

  struct Beyond {
    std::string series;
    std::uint64_t number = 0, last = 0;
  };
  /// The part, if there is one, by which a name would be another's of the state with a smaller number, of a series that
  /// ends before its own.
  std::optional<Beyond> beyond(const std::string& name) const {
    std::optional<Beyond> found;
    for_each_number(name, [&](const std::string& before, std::uint64_t number, const std::string& after) {
      if (found || !known_.contains(before + '\n' + after)) return;
      const std::uint64_t last = last_.at(before);
      if (number > last) found = Beyond{before, number, last};
    });
    return found;
  }

 private:
  template <class Function>
  static void for_each_number(const std::string& name, const Function& call) {
    for (std::size_t begin = 0, end = 0; begin < name.size(); begin = end + 1) {
      end = std::min(name.find('.', begin), name.size());
      std::uint64_t number = 0;
      const auto [at, error] = std::from_chars(name.data() + begin, name.data() + end, number);
      if (error == std::errc() && at == name.data() + end) call(name.substr(0, begin), number, name.substr(end));
    }
  }

  std::map<std::string, std::uint64_t> last_;
  std::set<std::string> known_;
};

/// How many values are NaN or Inf; those of 16 bits are counted as f32, for which alone (and f64) there is a kernel.
std::int64_t non_finite_among(const Tensor& tensor) {
  const Tensor counted = tensor.dtype() == DType::kFloat64 ? tensor : tensor.to(DType::kFloat32);
  return static_cast<std::int64_t>(ops::count_non_finite(std::span(&counted, 1)).item());
}

/// What a file's tensors do not fit, for one message.
struct Misfits {
  std::vector<std::string> missing;  // without the prefix
  std::vector<std::string> wrong, differing, surplus;

  void throw_any(const SafetensorsReader& file, const std::filesystem::path& path, const std::string& prefix) const {
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

/// Whether the sizes are a shape's, or both are of a single number: a scalar is stored as [] or [1].
bool fits(const std::vector<std::int64_t>& sizes, const Shape& shape) {
  if (std::ranges::equal(sizes, shape)) return true;
  return sizes.size() <= 1 && shape.rank() <= 1 && shape.numel() == 1 && (sizes.empty() || sizes.front() == 1);
}

/// The value of a tensor of the model, on the host; undefined and noted where it does not fit.
Tensor value_of(const SafetensorsReader& file, const std::string& name_there, const Tensor& own, bool allow_non_finite,
                Misfits& misfits) {
  const SafetensorsReader::Entry entry = file.entry(name_there);
  if (!fits(entry.sizes, own.shape())) {
    misfits.wrong.push_back(fmt::format("'{}' has shape [{}], expected {}", name_there, fmt::join(entry.sizes, ", "),
                                        to_string(own.shape())));
    return {};
  }
  if (!entry.dtype || !is_floating(*entry.dtype)) {
    misfits.wrong.push_back(fmt::format("'{}' is {}, expected a floating type", name_there,
                                        entry.dtype ? name(*entry.dtype) : std::string_view(entry.type)));
    return {};
  }
  Tensor value = file.read(name_there, own.dtype()).reshape(own.shape());
  const std::int64_t first = allow_non_finite ? -1 : first_non_finite(value);
  if (first < 0) return value;
  misfits.wrong.push_back(fmt::format("'{}' has {} NaN or Inf among {} values, the first at {}", name_there,
                                      non_finite_among(value), value.numel(), first));
  return {};
}

/// Names in the file, behind the prefix, that contradict the model or, where that is strict, that it has not.
void note_surplus(const SafetensorsReader& file, const std::vector<Buffer>& state, const std::set<std::string>& used,
                  const LoadOptions& options, Misfits& misfits) {
  const Series series(state);
  const std::vector<std::string> heads = heads_beside(state);
  std::map<std::string, Series::Beyond> longer;  // by series, the largest number
  for (const std::string& there : file.names()) {
    if (!there.starts_with(options.prefix) || used.contains(there)) continue;
    const std::string key = there.substr(options.prefix.size());
    if (const auto beyond = series.beyond(key)) {
      auto& largest = longer.emplace(beyond->series, *beyond).first->second;
      if (beyond->number > largest.number) largest = *beyond;
    } else if (options.strict && !is_bookkeeping(key, file.entry(there)) &&
               std::ranges::none_of(heads, [&](const std::string& head) { return key.starts_with(head); })) {
      misfits.surplus.push_back(fmt::format("'{}' belongs to no parameter", there));
    }
  }
  for (const auto& [name, beyond] : longer) {
    misfits.wrong.push_back(fmt::format("'{0}{1}' goes on to {0}{1}{2} in the file, in the model to {1}{3}",
                                        options.prefix, name, beyond.number, beyond.last));
  }
}

void load(const std::filesystem::path& path, const std::vector<Buffer>& state, std::span<const Parameter> parameters,
          const NameInFile& name_without_prefix, const LoadOptions& options) {
  const SafetensorsReader file(path, {.memory_map = options.memory_map});
  Misfits misfits;
  std::set<std::string> used;
  std::vector<detail::Assignment> assignments;
  for (const auto& [key, own] : state) {
    std::string there = stored_as(file, options.prefix + key);
    if (const std::string older = there.empty() ? older_spelling(options.prefix + key, own) : ""; !older.empty()) {
      there = stored_as(file, older);
    }
    if (there.empty()) {
      misfits.missing.push_back(key);
      continue;
    }
    used.insert(there);
    const Tensor value = value_of(file, there, own, options.allow_non_finite, misfits);
    if (value.defined()) assignments.push_back({own, value.to(own.device()), value.is_wrapped()});
  }
  note_surplus(file, state, used, options, misfits);
  if (!options.allow_other_settings) {
    misfits.differing = other_settings(path, file, parameters, [&](const Parameter& p) {
      const std::string own = name_without_prefix(p);
      return own.empty() ? own : options.prefix + own;
    });
  }
  misfits.throw_any(file, path, options.prefix);
  detail::assign(assignments);
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
