#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/core/json_fields.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/models/sentence_modules.h"
#include "tapecache/models/weight_files.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// What a model of any family is used by.
struct FamilyModel {
  /// Each token's state, [batch, tokens, width], where texts are yet to be pooled.
  std::function<Variable(const TokenBatch&)> states = {};
  std::function<Variable(const TokenBatch&)> texts = {};
  std::function<Variable(const Variable&)> images = {};
  std::function<Variable(const Variable&)> classes = {};  ///< logits of images
  std::optional<Parameter> logit_scale = {}, logit_bias = {};
};

/// What a family is given of a folder. What it finds wrong goes to the fields' problems.
struct FamilySource {
  const JsonFields& config;
  const WeightFiles& files;
  const PretrainedOptions& options;
  bool has_modules = false;  ///< whether modules.json says what becomes of the states
};

/// Names and tensors of a file.
using NamedTensors = std::map<std::string, Tensor>;

/// How a family makes its model of a folder.
struct FamilyPlan {
  Pretrained::Info info = {};
  std::string prefix = {};  ///< before the model's names in the files
  /// The tensors of the files as those of the model, where names alone do not tell.
  std::function<std::vector<RenamedTensor>(const std::string&, const SafetensorsReader::Entry&)> from_files = {};
  /// The reverse; as they are where it is empty.
  std::function<NamedTensors(const NamedTensors&)> to_files = {};
  bool pools = false;  ///< whether its texts' states are to be pooled, as modules.json or the options say
  TokenPooling pooling = TokenPooling::kMean;  ///< where neither says how
  std::vector<std::string> kept = {};          ///< tensors that the model does not use, but its folder is to have again
  std::string saved_class = {};                ///< for `architectures` of a saved config.json
  std::function<FamilyModel(const Builder&)> make = {};
};

/// Each plans a model of its kind.
FamilyPlan plan_bert(const FamilySource& source);
FamilyPlan plan_roberta(const FamilySource& source);
FamilyPlan plan_xlm_roberta(const FamilySource& source);
FamilyPlan plan_mpnet(const FamilySource& source);
FamilyPlan plan_modernbert(const FamilySource& source);
FamilyPlan plan_qwen3(const FamilySource& source);
FamilyPlan plan_qwen2(const FamilySource& source);
FamilyPlan plan_llama(const FamilySource& source);
FamilyPlan plan_mistral(const FamilySource& source);
FamilyPlan plan_clip(const FamilySource& source);
FamilyPlan plan_clip_text(const FamilySource& source);
FamilyPlan plan_clip_vision(const FamilySource& source);
FamilyPlan plan_open_clip(const FamilySource& source);
FamilyPlan plan_siglip(const FamilySource& source);
FamilyPlan plan_siglip_text(const FamilySource& source);
FamilyPlan plan_siglip_vision(const FamilySource& source);
FamilyPlan plan_vit(const FamilySource& source);
FamilyPlan plan_dinov2(const FamilySource& source);
FamilyPlan plan_dinov2_with_registers(const FamilySource& source);

/// What a tokenizer is read from, and how images are prepared; each where a folder has it. The first of either list are
/// those of which one at least must be there.
struct OtherFiles {
  std::span<const char*const> needed, others;

  bool are_in(const std::filesystem::path& folder) const;
  static OtherFiles of_tokenizer();
  static OtherFiles of_processor();
};

struct PretrainedParts {
  Pretrained::Info info;
  FamilyModel model;
  SentenceHead head;  ///< what follows the states
  // What the folder is written again by.
  std::filesystem::path folder;       ///< that it came from
  std::filesystem::path transformer;  ///< the folder within it that has config.json and the weights; mostly none
  std::filesystem::path tokenizer, processor;  ///< the folders that have these
  std::string weights;                         ///< without its ending
  std::string config_file;
  Json config;
  std::map<std::filesystem::path, std::string> carried;  ///< files that are written as they were read
  std::function<NamedTensors(const NamedTensors&)> to_files;
  std::string saved_class;
  std::vector<Parameter> parameters;  ///< of the files: what is made under the builder later is not theirs
  std::vector<Buffer> buffers;
  std::vector<std::string> modules;  ///< whose parameters are in files of their own, by path

  /// The path of the module that a parameter is of; empty for the transformer's.
  std::string module_of(const std::string& name) const {
    for (const std::string& module : modules) {
      if (name.starts_with(module + ".")) return module;
    }
    return "";
  }
};

}  // namespace tapecache::models::detail

namespace tapecache::models {

struct [[gnu::visibility("hidden")]] Pretrained::Parts : detail::PretrainedParts{};

}  // namespace tapecache::models

#pragma GCC visibility pop
