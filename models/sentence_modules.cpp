#include "tapecache/models/sentence_modules.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/models/weight_files.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::models::detail {

namespace {

constexpr const char* kModulesFile = "modules.json";
/// The first that is there counts.
constexpr std::array kTransformerFiles{"sentence_bert_config.json",       "sentence_roberta_config.json",
                                       "sentence_distilbert_config.json", "sentence_camembert_config.json",
                                       "sentence_albert_config.json",     "sentence_xlm-roberta_config.json",
                                       "sentence_xlnet_config.json"};

struct NamedActivation {
  std::string_view name;
  SentenceModule::Activation activation;
};

/// As torch calls the classes.
constexpr std::array<NamedActivation, 6> kActivations{
    {{"torch.nn.modules.activation.Tanh", SentenceModule::Activation::kTanh},
     {"torch.nn.modules.linear.Identity", SentenceModule::Activation::kNone},
     {"torch.nn.modules.activation.Sigmoid", SentenceModule::Activation::kSigmoid},
     {"torch.nn.modules.activation.ReLU", SentenceModule::Activation::kRelu},
     {"torch.nn.modules.activation.GELU", SentenceModule::Activation::kGelu},
     {"torch.nn.modules.activation.SiLU", SentenceModule::Activation::kSilu}}};

/// The fields that older versions say the poolings by; the representations of several are side by side in this order.
constexpr std::array<std::pair<const char*, TokenPooling>, 6> kPoolingFlags{
    {{"pooling_mode_cls_token", TokenPooling::kCls},
     {"pooling_mode_max_tokens", TokenPooling::kMax},
     {"pooling_mode_mean_tokens", TokenPooling::kMean},
     {"pooling_mode_mean_sqrt_len_tokens", TokenPooling::kMeanSqrtLength},
     {"pooling_mode_weightedmean_tokens", TokenPooling::kWeightedMean},
     {"pooling_mode_lasttoken", TokenPooling::kLastToken}}};

Variable activated(SentenceModule::Activation activation, const Variable& x) {
  switch (activation) {
    case SentenceModule::Activation::kNone:
      return x;
    case SentenceModule::Activation::kTanh:
      return ops::tanh(x);
    case SentenceModule::Activation::kSigmoid:
      return ops::sigmoid(x);
    case SentenceModule::Activation::kRelu:
      return ops::relu(x);
    case SentenceModule::Activation::kGelu:
      return ops::gelu(x);
    case SentenceModule::Activation::kSilu:
      return ops::silu(x);
  }
  return x;
}

/// Within the folder, and nowhere else.
bool is_inside(const std::filesystem::path& path) {
  return path.is_relative() && std::ranges::none_of(path, [](const auto& part) { return part == ".."; });
}

/// The configuration of one module.
class ModuleReader {
 public:
  ModuleReader(const std::filesystem::path& folder, const std::filesystem::path& before, SentenceModules& all,
               Problems& problems)
      : folder_(folder), before_(before), all_(all), problems_(problems) {}

  /// Where a file is read: in the folder, unless the one that counts before it has it.
  std::filesystem::path place(const std::filesystem::path& file) const {
    std::error_code error;
    return !before_.empty() && std::filesystem::exists(before_ / file, error) ? before_ / file
                                                                              : folder_within(folder_) / file;
  }
  bool has(const std::filesystem::path& file) const {
    std::error_code error;
    return std::filesystem::exists(place(file), error);
  }

  /// A JSON file of the folder, as an object; without members where it is optional and not there.
  const Json& read(const std::filesystem::path& file, bool optional) {
    if (optional && !has(file)) return *kept_.emplace_back(keep(Json::object()));
    std::string text = tapecache::detail::read_small_file(place(file), kMostBytes);
    Json json = tapecache::detail::parse_json(place(file).string(), text);
    all_.files[file] = std::move(text);
    return *kept_.emplace_back(keep(std::move(json)));
  }
  JsonFields fields(const std::filesystem::path& file, bool optional) {
    return {place(file), read(file, optional), problems_};
  }

  void add(const JsonFields& entry) {
    const std::string type = entry.text("type", ""), path = entry.text("path", "");
    const std::string kind = type.substr(type.rfind('.') + 1);
    if (!is_inside(path)) return entry.refuse("path", "a folder within that of modules.json");
    if (!type.starts_with("sentence_transformers.")) return entry.refuse("type", kExpected);
    if ((kind == "Transformer" || kind == "CLIPModel") && !has_transformer_ && all_.modules.empty()) {
      all_.transformer = path;
      all_.is_clip = kind == "CLIPModel";
      has_transformer_ = true;
    } else if (kind == "Pooling" && all_.modules.empty() && !all_.is_clip) {
      add_pooling(path);
    } else if (kind == "Dense") {
      add_dense(path);
    } else if (kind == "Normalize") {
      add_normalize(path);
    } else {
      entry.refuse("type", kExpected);
    }
  }

  void finish(const std::string& where) const {
    if (!has_transformer_)
      problems_.add(fmt::format("{}: no module is a Transformer or a CLIPModel, expected the first", where));
    if (all_.is_clip) return;
    if (all_.modules.empty() || all_.modules.front().kind != SentenceModule::Kind::kPooling) {
      problems_.add(fmt::format("{}: no Pooling follows the Transformer, expected one", where));
    }
  }

 private:
  static constexpr const char* kExpected =
      "one of sentence_transformers' modules: Transformer, then Pooling, or CLIPModel, then Dense and Normalize";
  static constexpr std::uint64_t kMostBytes = 4 << 20;

  static std::unique_ptr<Json> keep(Json json) { return std::make_unique<Json>(std::move(json)); }

  JsonFields config_of(const std::string& path, bool optional) {
    return fields(std::filesystem::path(path) / "config.json", optional);
  }

  void add_pooling(const std::string& path) {
    const JsonFields config = config_of(path, false);
    SentenceModule module{.kind = SentenceModule::Kind::kPooling, .path = path};
    module.in = config.size(config.has("embedding_dimension") ? "embedding_dimension" : "word_embedding_dimension", 0);
    config.only_flag("include_prompt", true);
    if (config.has("pooling_mode")) {
      const Json& modes = *config.json().find("pooling_mode");
      for (const Json& mode : modes.is(Json::Kind::kArray) ? modes.items : std::vector<Json>{modes}) {
        const std::optional<TokenPooling> known = token_pooling(mode.text);
        if (!known)
          return config.refuse("pooling_mode", "cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken");
        module.poolings.push_back(*known);
      }
    } else {
      for (const auto& [field, pooling] : kPoolingFlags) {
        if (config.flag(field, false)) module.poolings.push_back(pooling);
      }
    }
    if (module.poolings.empty()) module.poolings.push_back(TokenPooling::kMean);
    module.out = module.in * static_cast<std::int64_t>(module.poolings.size());
    all_.modules.push_back(std::move(module));
  }

  void add_dense(const std::string& path) {
    const JsonFields config = config_of(path, false);
    SentenceModule module{.kind = SentenceModule::Kind::kDense, .path = path};
    module.in = config.size("in_features", 0);
    module.out = config.size("out_features", 0);
    for (const char* field : {"in_features", "out_features"}) {
      if (!config.has(field)) config.refuse_size(field, "a width");
    }
    module.bias = config.flag("bias", true);
    const std::string activation = config.text("activation_function", kActivations.front().name);
    const auto known = std::ranges::find(kActivations, activation, &NamedActivation::name);
    if (known == kActivations.end()) {
      config.refuse("activation_function", "torch's Tanh, Identity, Sigmoid, ReLU, GELU or SiLU");
    } else {
      module.activation = known->activation;
    }
    config.only_text("module_input_name", "sentence_embedding");
    config.only_text("module_output_name", "sentence_embedding");
    config.only_flag("use_residual", false);
    all_.modules.push_back(std::move(module));
  }

  void add_normalize(const std::string& path) {
    const JsonFields config = config_of(path, true);
    config.only_text("module_input_name", "sentence_embedding");
    config.only_text("module_output_name", "sentence_embedding");
    all_.modules.push_back({.kind = SentenceModule::Kind::kNormalize, .path = path});
  }

  const std::filesystem::path &folder_, &before_;
  SentenceModules& all_;
  Problems& problems_;
  bool has_transformer_ = false;
  std::vector<std::unique_ptr<Json>> kept_;
};

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

/// What the tokenizer and the processor of images are called with.
void read_calls(const JsonFields& fields) {
  for (const char* kind : {"common", "text", "image"}) {
    const JsonFields given = fields.object("processing_kwargs").object(kind);
    for (const auto& [name, value] : given.json().members) {
      const bool is_usual = name == "padding"      ? value.flag || value.text == "longest"
                            : name == "truncation" ? value.flag || value.text == "longest_first"
                                                   : name == "return_tensors";
      if (!is_usual) given.refuse(name, "none");
    }
  }
}

/// What the classes of transformers are loaded with: how they compute is no matter here, what they compute is.
void read_arguments(const JsonFields& fields, SentenceModules& all) {
  for (const char* kind :
       {"model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"}) {
    const JsonFields given = fields.object(kind);
    for (const auto& [name, value] : given.json().members) {
      if (is_one_of(kind, {"tokenizer_args", "processor_kwargs"}) && name == "model_max_length") {
        all.max_tokens = given.size(name, 1);
      } else if (!is_one_of(name, {"trust_remote_code", "attn_implementation", "torch_dtype", "dtype", "device_map",
                                   "low_cpu_mem_usage", "use_safetensors", "use_cache", "add_pooling_layer", "use_fast",
                                   "padding_side"})) {
        given.refuse(name, "none");
      }
    }
  }
}

/// What sentence-transformers keeps of the transformer beside its config.json. Of its fields those count that change
/// what a text is represented by.
void read_transformer_fields(const JsonFields& fields, SentenceModules& all) {
  if (fields.has("max_seq_length")) all.max_tokens = fields.size("max_seq_length", 0);
  read_arguments(fields, all);
  read_calls(fields);
  for (const char* field : {"query_length", "document_length", "query_expansion", "tokenizer_name_or_path"}) {
    fields.none(field);
  }
  all.lower_case = fields.flag("do_lower_case", false);
  fields.only_text("transformer_task", "feature-extraction");
  fields.only_text("module_output_name", all.is_clip ? "sentence_embedding" : "token_embeddings");
  const JsonFields text = fields.object("modality_config").object("text");
  text.only_text("method", all.is_clip ? "get_text_features" : "forward");
  text.only_text("method_output_name", all.is_clip ? "pooler_output" : "last_hidden_state");
}

void read_prompts(const JsonFields& fields, SentenceModules& all) {
  const JsonFields prompts = fields.object("prompts");
  for (const auto& [name, text] : prompts.json().members) all.prompts[name] = prompts.text(name, "");
  if (fields.has("default_prompt_name")) {
    const std::string name = fields.text("default_prompt_name", "");
    if (!all.prompts.contains(name)) fields.refuse("default_prompt_name", "one of the prompts");
    all.default_prompt = name;
  }
  all.similarity = fields.text("similarity_fn_name", "cosine");
  constexpr std::array kSimilarities{"cosine", "dot", "euclidean", "manhattan"};
  if (std::ranges::find(kSimilarities, all.similarity) == kSimilarities.end()) {
    fields.refuse("similarity_fn_name", "cosine, dot, euclidean or manhattan");
  }
}

}  // namespace

SentenceModules read_sentence_modules(const std::filesystem::path& folder, const std::filesystem::path& before,
                                      Problems& problems) {
  std::error_code error;
  if (!before.empty() && std::filesystem::exists(before / kModulesFile, error)) {
    SentenceModules all = read_sentence_modules(before, {}, problems);
    // But for the transformer, which is the model's.
    Problems ignored;
    SentenceModules own = read_sentence_modules(folder, {}, ignored);
    all.transformer = std::move(own.transformer);
    all.own = std::move(own.modules);
    return all;
  }
  SentenceModules all;
  all.folder = folder;
  ModuleReader reader(folder, before, all, problems);
  if (reader.has(kModulesFile)) {
    all.there = true;
    const std::filesystem::path place = reader.place(kModulesFile);
    const std::string where = place.string();
    const Json& modules = reader.read(kModulesFile, false);
    if (!modules.is(Json::Kind::kArray)) {
      problems.add(fmt::format("{}: is {}, expected a list of modules", where, modules.brief()));
      return all;
    }
    constexpr std::size_t kMost = 64;
    if (modules.items.size() > kMost) {
      problems.add(fmt::format("{}: {} modules, expected at most {}", where, modules.items.size(), kMost));
      return all;
    }
    for (const Json& module : modules.items) reader.add({place, module, problems});
    reader.finish(where);
  }
  for (const char* file : kTransformerFiles) {
    if (!reader.has(all.transformer / file)) continue;
    read_transformer_fields(reader.fields(all.transformer / file, true), all);
    break;
  }
  read_prompts(reader.fields("config_sentence_transformers.json", true), all);
  return all;
}

std::vector<SentenceModule> unsaid_modules(TokenPooling pooling, bool normalize) {
  std::vector<SentenceModule> modules{
      {.kind = SentenceModule::Kind::kPooling, .path = "1_Pooling", .poolings = {pooling}}};
  if (normalize) modules.push_back({.kind = SentenceModule::Kind::kNormalize, .path = "2_Normalize"});
  return modules;
}

std::map<std::filesystem::path, std::string> files_of(const std::vector<SentenceModule>& modules, std::int64_t width) {
  Json list = Json::array();
  std::map<std::filesystem::path, std::string> files;
  const auto add = [&](const std::string& path, const char* type) {
    Json entry = Json::object();
    const auto place = static_cast<std::int64_t>(list.items.size());
    entry.set("idx", Json::of(place));
    entry.set("name", Json::of(fmt::to_string(place)));
    entry.set("path", Json::of(path));
    entry.set("type", Json::of(fmt::format("sentence_transformers.models.{}", type)));
    list.items.push_back(std::move(entry));
  };
  add("", "Transformer");
  for (const SentenceModule& module : modules) {
    const bool pools = module.kind == SentenceModule::Kind::kPooling;
    add(module.path, pools ? "Pooling" : "Normalize");
    if (!pools) continue;
    // In the fields that every version reads.
    Json config = Json::object();
    config.set("word_embedding_dimension", Json::of(width));
    for (const auto& [field, pooling] : kPoolingFlags) {
      config.set(field, Json::of(module.poolings.front() == pooling));
    }
    files[std::filesystem::path(module.path) / "config.json"] = config.dump();
  }
  files[kModulesFile] = list.dump();
  return files;
}

SentenceHead::SentenceHead(const Builder& builder, const std::vector<SentenceModule>& modules) : modules_(modules) {
  for (const SentenceModule& module : modules_) {
    if (module.kind != SentenceModule::Kind::kDense) {
      linear_.emplace_back();
      continue;
    }
    const Init init = Init::normal(1 / std::sqrt(static_cast<double>(module.in)));
    linear_.emplace_back(Linear(builder.child(module.path).child("linear"), module.in, module.out, init, module.bias));
  }
}

Variable SentenceHead::operator()(const Variable& states, const Tensor& valid) const {
  Variable x = states;
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    const SentenceModule& module = modules_[i];
    if (module.kind == SentenceModule::Kind::kPooling) {
      std::vector<Variable> parts;
      for (const TokenPooling pooling : module.poolings) parts.push_back(pool_tokens(states, valid, pooling));
      x = parts.size() == 1 ? parts.front() : ops::concat(std::span<const Variable>(parts), 1);
    } else if (module.kind == SentenceModule::Kind::kDense) {
      x = activated(module.activation, (*linear_[i])(x));
    } else {
      x = ops::l2_normalize(x);
    }
  }
  return x;
}

std::int64_t width_after(const std::vector<SentenceModule>& modules, std::int64_t width,
                         const std::filesystem::path& folder, Problems& problems) {
  for (const SentenceModule& module : modules) {
    if (module.kind == SentenceModule::Kind::kNormalize) continue;
    if (module.in > 0 && module.in != width) {
      const char* field = module.kind == SentenceModule::Kind::kDense ? "in_features" : "word_embedding_dimension";
      problems.add(fmt::format("{}: {} is {}, expected {}, the width of what it is given",
                               (folder / module.path / "config.json").string(), field, module.in, width));
    }
    width = module.kind == SentenceModule::Kind::kDense ? module.out
                                                        : width * static_cast<std::int64_t>(module.poolings.size());
  }
  return width;
}

}  // namespace tapecache::models::detail
