#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tapecache/core/json_fields.h"
#include "tapecache/models/layers.h"
#include "tapecache/models/token_batch.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models {

/// The name that sentence-transformers' `Pooling` has for it: "cls", "max", "mean", "mean_sqrt_len_tokens",
/// "weightedmean", "lasttoken".
std::string_view name(TokenPooling pooling);
/// The pooling of a name; none for an unknown name.
std::optional<TokenPooling> token_pooling(std::string_view name);

}  // namespace tapecache::models

namespace tapecache::models::detail {

using tapecache::detail::Json;
using tapecache::detail::JsonFields;
using tapecache::detail::Problems;

/// A module of sentence-transformers that follows the transformer.
struct SentenceModule {
  enum class Kind { kPooling, kDense, kNormalize };
  enum class Activation { kNone, kTanh, kSigmoid, kRelu, kGelu, kSilu };

  Kind kind = Kind::kPooling;
  std::string path = {};  ///< its folder, within that of the model
  std::vector<TokenPooling> poolings = {};
  std::int64_t in = 0, out = 0;  ///< widths, where it has any
  bool bias = true;
  Activation activation = Activation::kNone;
};

/// What modules.json and the files that it names say.
struct SentenceModules {
  bool there = false;                   ///< whether there is a modules.json
  bool is_clip = false;                 ///< whether a CLIP stands in the place of a transformer and its pooling
  std::filesystem::path folder;         ///< that the modules' folders are within
  std::filesystem::path transformer;    ///< the folder of the transformer, within that of the model; mostly none
  std::vector<SentenceModule> modules;  ///< that follow it
  /// Those that the model's own folder has, where the others are not of it; empty where it has none.
  std::optional<std::vector<SentenceModule>> own;
  std::optional<std::int64_t> max_tokens;
  bool lower_case = false;
  std::map<std::string, std::string> prompts;
  std::optional<std::string> default_prompt;
  std::string similarity = "cosine";
  std::map<std::filesystem::path, std::string> files;  ///< that were read, as they are
};

/// Of a folder, of which only what is there is read, and of one, if any, whose files count before its own: all of that
/// one's where it has a modules.json. Throws FileError for what is no JSON; the rest goes to `problems`.
SentenceModules read_sentence_modules(const std::filesystem::path& folder, const std::filesystem::path& before,
                                      Problems& problems);

/// The modules of a folder that has none: these alone.
std::vector<SentenceModule> unsaid_modules(TokenPooling pooling, bool normalize);
/// Their files, for a folder of a transformer of this width.
std::map<std::filesystem::path, std::string> files_of(const std::vector<SentenceModule>& modules, std::int64_t width);

/// The modules as they are run, one after another.
class SentenceHead {
 public:
  SentenceHead() = default;
  SentenceHead(const Builder& builder, const std::vector<SentenceModule>& modules);
  /// States [batch, tokens, width], or where nothing pools them what stands for each sample, to [batch, …].
  Variable operator()(const Variable& states, const Tensor& valid) const;

 private:
  std::vector<SentenceModule> modules_;
  std::vector<std::optional<Linear>> linear_;  // by module
};

/// The width of what the modules of a folder make of states of a width. What does not fit goes to `problems`.
std::int64_t width_after(const std::vector<SentenceModule>& modules, std::int64_t width,
                         const std::filesystem::path& folder, Problems& problems);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
