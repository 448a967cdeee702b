#include "tapecache/models/weight_reader.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/error.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/update.h"

namespace tapecache::models::detail {

namespace {

/// Appends the first few of one kind of problem, and how many more there are.
void append_some(std::vector<std::string>& all, const std::vector<std::string>& kind, const char* what) {
  constexpr std::size_t kListed = 8;
  all.insert(all.end(), kind.begin(), kind.begin() + static_cast<std::ptrdiff_t>(std::min(kind.size(), kListed)));
  if (kind.size() > kListed) all.push_back(fmt::format("and {} more {}", kind.size() - kListed, what));
}

/// What stands for a name in the files: itself or, of tied tensors that were written once, the one that the metadata
/// gives as its other name (as `safetensors.torch.save_model` does). Empty where there is none.
std::string stored_as(const WeightFiles& files, const std::string& name) {
  if (files.contains(name)) return name;
  const std::optional<std::string> alias = files.metadata(name);
  return alias && files.contains(*alias) ? *alias : "";
}

/// A norm's name in checkpoints that were converted from TensorFlow's; empty for what is no norm's.
std::string older_spelling(const std::string& name, const Shape& shape) {
  if (shape.rank() != 1) return "";
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

/// Whether the sizes are a shape's, or both are of a single number: a scalar is stored as [] or [1].
bool fits(const std::vector<std::int64_t>& sizes, const Shape& shape) {
  if (std::ranges::equal(sizes, shape)) return true;
  return sizes.size() <= 1 && shape.rank() <= 1 && shape.numel() == 1 && (sizes.empty() || sizes.front() == 1);
}

}  // namespace

std::string WeightReader::name_in_file(const std::string& name, const Shape& shape) const {
  const std::string now = options_.prefix + name;
  std::string there = stored_as(files_, now);
  if (const std::string older = there.empty() ? older_spelling(now, shape) : ""; !older.empty()) {
    there = stored_as(files_, older);
  }
  return there;
}

Tensor WeightReader::value(const std::string& name, const Shape& shape, DType dtype) {
  const std::string there = name_in_file(name, shape);
  if (there.empty()) {
    missing_.push_back(name);
    return {};
  }
  used_.insert(there);
  const SafetensorsReader::Entry entry = files_.entry(there);
  if (!fits(entry.sizes, shape)) {
    wrong_.push_back(
        fmt::format("'{}' has shape [{}], expected {}", there, fmt::join(entry.sizes, ", "), to_string(shape)));
    return {};
  }
  if (!entry.dtype || !is_floating(*entry.dtype)) {
    wrong_.push_back(fmt::format("'{}' is {}, expected a floating type", there,
                                 entry.dtype ? tapecache::name(*entry.dtype) : std::string_view(entry.type)));
    return {};
  }
  Tensor value = files_.read(there, dtype).reshape(shape);
  const std::int64_t first = options_.allow_non_finite ? -1 : first_non_finite(value);
  if (first < 0) return value;
  wrong_.push_back(fmt::format("'{}' has {} NaN or Inf among {} values, the first at {}", there,
                               non_finite_among(value), value.numel(), first));
  return {};
}

/// Names in the files, behind the prefix, that contradict the model or, where that is strict, that it has not.
void WeightReader::note_surplus(const std::vector<Buffer>& state) {
  const Series series(state);
  const std::vector<std::string> heads = heads_beside(state);
  std::map<std::string, Series::Beyond> longer;  // by series, the largest number
  for (const std::string& there : files_.names()) {
    if (!there.starts_with(options_.prefix) || used_.contains(there)) continue;
    const std::string key = there.substr(options_.prefix.size());
    if (const auto beyond = series.beyond(key)) {
      auto& largest = longer.emplace(beyond->series, *beyond).first->second;
      if (beyond->number > largest.number) largest = *beyond;
    } else if (options_.strict && !is_bookkeeping(key, files_.entry(there)) &&
               std::ranges::none_of(heads, [&](const std::string& head) { return key.starts_with(head); })) {
      surplus_.push_back(fmt::format("'{}' belongs to no parameter", there));
    }
  }
  for (const auto& [name, beyond] : longer) {
    wrong_.push_back(fmt::format("'{0}{1}' goes on to {0}{1}{2} in the file, in the model to {1}{3}", options_.prefix,
                                 name, beyond.number, beyond.last));
  }
}

/// The prefix, if there is one, under which the files have all that is missing.
std::optional<std::string> WeightReader::common_prefix() const {
  if (missing_.empty()) return std::nullopt;
  for (const std::string& key : files_.names()) {
    if (!key.ends_with(missing_.front())) continue;
    const std::string prefix = key.substr(0, key.size() - missing_.front().size());
    if (!prefix.empty() && !prefix.ends_with('.')) continue;
    if (std::ranges::all_of(missing_, [&](const std::string& n) { return files_.contains(prefix + n); })) return prefix;
  }
  return std::nullopt;
}

std::vector<std::string> WeightReader::problems(const std::vector<Buffer>& state, std::span<const Parameter> parameters,
                                                const NameInFile& name_without_prefix) {
  note_surplus(state);
  std::vector<std::string> absent, differing, all;
  for (const std::string& key : missing_) absent.push_back(fmt::format("'{}{}' is missing", options_.prefix, key));
  if (!options_.allow_other_settings) {
    for (const auto& [path, file] : files_.shards()) {
      const std::vector<std::string> others = other_settings(path, file, parameters, [&](const Parameter& p) {
        const std::string own = name_without_prefix(p);
        return own.empty() ? own : options_.prefix + own;
      });
      differing.insert(differing.end(), others.begin(), others.end());
    }
  }
  append_some(all, absent, "are missing");
  append_some(all, wrong_, "do not fit");
  append_some(all, differing, "were saved with other settings");
  append_some(all, surplus_, "belong to none");
  if (all.empty()) return all;
  if (const std::optional<std::string> other = common_prefix()) {
    all.push_back(fmt::format("all that is missing is there with LoadOptions::prefix \"{}\"", *other));
  }
  return all;
}

void WeightReader::require_none(const std::vector<std::string>& problems) const {
  if (problems.empty()) return;
  throw FileError(fmt::format("{}: these weights do not fit: {}", files_.path().string(), fmt::join(problems, "; ")));
}

}  // namespace tapecache::models::detail
