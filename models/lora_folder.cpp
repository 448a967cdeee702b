#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/core/json_fields.h"
#include "tapecache/core/safetensors_header.h"
#include "tapecache/models/lora_parts.h"
#include "tapecache/models/weight_reader.h"

namespace tapecache::models {

using detail::AdapterPlan;
using detail::Json;
using detail::JsonFields;

namespace {

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model";
constexpr std::string_view kBefore = "base_model.model.", kA = ".lora_A.weight", kB = ".lora_B.weight";

/// What files call a layer's A and B.
std::string name_in_file(const std::string& layer, std::string_view part) {
  return fmt::format("{}{}{}", kBefore, layer, part);
}

/// Reads adapter_config.json and adapter_model.safetensors for the layers of a model.
class AdapterReader {
 public:
  AdapterReader(const std::filesystem::path& folder, const Model& model)
      : folder_(detail::folder_within(folder)),
        builder_(model.builder()),
        prefix_(detail::prefix_of(builder_)),
        layers_(detail::adaptable_layers(model)) {}

  std::vector<AdapterPlan> read() {
    const Json json = tapecache::detail::read_json(folder_ / kConfig);
    const JsonFields fields(folder_ / kConfig, json, problems_);
    read_options(fields);
    problems_.throw_any();
    const detail::WeightFiles files = detail::WeightFiles::of_folder(folder_, kWeights);
    std::vector<AdapterPlan> plans = plans_of(files, fields);
    problems_.throw_any();
    return plans;
  }

  const LoraOptions& options() const { return options_; }

 private:
  void read_options(const JsonFields& fields) {
    fields.only_text("peft_type", "LORA");
    options_.rank = fields.size("r", options_.rank);
    options_.alpha = fields.number("lora_alpha", options_.alpha);
    options_.dropout = fields.probability("lora_dropout", 0);
    options_.rank_stabilized = fields.flag("use_rslora", false);
    fields.only_text("bias", "none");
    if (const Json* const init = fields.json().find("init_lora_weights"); init && init->is(Json::Kind::kString)) {
      constexpr std::array kKeepsBase{"gaussian", "orthogonal", "eva"};
      if (std::ranges::find(kKeepsBase, init->text) == kKeepsBase.end()) {
        fields.refuse("init_lora_weights", "a way of drawing A and B that leaves the base model as it is");
      }
    }
    // What the tensors themselves tell, what is said of files and versions, and what belongs to fields refused below.
    constexpr std::array kPassed{"peft_type",      "r",
                                 "lora_alpha",     "lora_dropout",
                                 "use_rslora",     "bias",
                                 "rank_pattern",   "alpha_pattern",
                                 "target_modules", "exclude_modules",
                                 "layers_pattern", "layers_to_transform",
                                 "auto_mapping",   "base_model_name_or_path",
                                 "inference_mode", "init_lora_weights",
                                 "peft_version",   "revision",
                                 "task_type",      "ensure_weight_tying",
                                 "megatron_core",  "qalora_group_size",
                                 "runtime_config", "eva_config"};
    for (const auto& [name, value] : fields.json().members) {
      if (std::ranges::find(kPassed, name) == kPassed.end()) fields.none(name);
    }
    for (const char* pattern : {"rank_pattern", "alpha_pattern"}) {
      for (const auto& [key, value] : fields.object(pattern).json().members) {
        if (!detail::is_name(key.starts_with('^') ? std::string_view(key).substr(1) : key)) {
          fields.object(pattern).refuse(key, "the name of a layer, or its last parts, in the place of an expression");
        }
      }
    }
  }

  /// Of the first pattern that a layer's name answers to.
  static std::string pattern_of(const JsonFields& patterns, const std::string& name) {
    for (const auto& [key, value] : patterns.json().members) {
      if (key.starts_with('^') ? name == key.substr(1) : detail::ends_name(name, key)) return key;
    }
    return name;
  }

  std::vector<AdapterPlan> plans_of(const detail::WeightFiles& files, const JsonFields& fields) {
    const JsonFields ranks = fields.object("rank_pattern"), alphas = fields.object("alpha_pattern");
    detail::WeightReader reader(files, {.strict = false});
    std::vector<AdapterPlan> plans;
    for (const std::string& there : layers_in(files)) {
      const std::shared_ptr<LinearAdapter> layer = layer_of(there);
      if (!layer && takes_no_part(there)) continue;
      if (!layer) {
        problems_.add(fmt::format("{}: adapts '{}', the model has no such linear layer, but '{}'",
                                  files.path().string(), there, layers_.front()->layer.substr(prefix_.size())));
        continue;
      }
      detail::require_free(*layer);
      if (std::ranges::any_of(plans, [&](const AdapterPlan& plan) { return plan.layer == layer; })) {
        problems_.add(fmt::format("{}: adapts layer '{}' twice", files.path().string(), layer->layer));
      }
      AdapterPlan plan{layer, ranks.size(pattern_of(ranks, there), options_.rank),
                       alphas.number(pattern_of(alphas, there), options_.alpha)};
      const Shape& shape = layer->weight.value().shape();
      plan.a = reader.value(name_in_file(there, kA), {plan.rank, shape[1]}, builder_.dtype());
      plan.b = reader.value(name_in_file(there, kB), {shape[0], plan.rank}, builder_.dtype());
      plans.push_back(std::move(plan));
    }
    const std::vector<std::string> found = reader.problems({}, {}, [](const Parameter&) { return std::string(); });
    if (!found.empty()) {
      problems_.add(
          fmt::format("{}: does not fit the model or {}: {}", files.path().string(), kConfig, fmt::join(found, "; ")));
    }
    if (plans.empty() && problems_.empty()) problems_.add(fmt::format("{}: adapts no layer", files.path().string()));
    if (!problems_.empty()) return plans;
    std::ranges::sort(plans, {}, [&](const AdapterPlan& plan) { return std::ranges::find(layers_, plan.layer); });
    for (AdapterPlan& plan : plans) {
      plan.a = plan.a.to(builder_.device());
      plan.b = plan.b.to(builder_.device());
    }
    return plans;
  }

  /// What the tensors of the files adapt, by the names there.
  std::set<std::string> layers_in(const detail::WeightFiles& files) {
    std::set<std::string> layers;
    for (const std::string& name : files.names()) {
      const bool is_part = name.starts_with(kBefore) && (name.ends_with(kA) || name.ends_with(kB));
      if (is_part && name.size() > kBefore.size() + kA.size()) {
        layers.insert(name.substr(kBefore.size(), name.size() - kBefore.size() - kA.size()));
      } else {
        problems_.add(fmt::format("{}: '{}' is no part of a linear layer's adapter, expected {}LAYER{} or {}",
                                  files.path().string(), name, kBefore, kA, kB));
      }
    }
    return layers;
  }

  /// The layer of that name or, of an encoder that is part of another model here or there, the one whose name ends as
  /// that does; null where there is not exactly one.
  std::shared_ptr<LinearAdapter> layer_of(const std::string& there) const {
    std::vector<std::shared_ptr<LinearAdapter>> alike;
    for (const auto& layer : layers_) {
      const std::string name = layer->layer.substr(prefix_.size());
      if (name == there) return layer;
      if (detail::ends_name(name, there) || detail::ends_name(there, name)) alike.push_back(layer);
    }
    return alike.size() == 1 ? alike.front() : nullptr;
  }

  /// Whether it is of what a folder's model keeps for saving alone, as a pooler that it does not use; or of the last
  /// projection of SigLIP's pooling, which PEFT makes and does not read.
  bool takes_no_part(const std::string& there) const {
    if (std::ranges::any_of(builder_.linear_layers(), [&](const auto& layer) {
          return !layer->adaptable && layer->layer.ends_with(".attention.out_proj") &&
                 (detail::ends_name(layer->layer, there) || detail::ends_name(there, layer->layer));
        })) {
      return true;
    }
    return std::ranges::any_of(builder_.buffers(), [&](const Buffer& b) {
      return b.name.starts_with(prefix_) && detail::ends_name(there + ".weight", b.name.substr(prefix_.size()));
    });
  }

  std::filesystem::path folder_;
  Builder builder_;
  std::string prefix_;
  std::vector<std::shared_ptr<LinearAdapter>> layers_;
  LoraOptions options_;
  detail::Problems problems_;
};

Json number_json(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return Json::of(static_cast<std::int64_t>(value));
  return {.kind = Json::Kind::kNumber, .text = fmt::format("{}", value)};
}

}  // namespace

Lora load_lora(const std::filesystem::path& folder, const Model& model) {
  AdapterReader reader(folder, model);
  const std::vector<AdapterPlan> plans = reader.read();
  const Builder& builder = model.builder();
  const auto parts = std::make_shared<Lora::Parts>(Lora::Parts{reader.options(), detail::prefix_of(builder), {}});
  parts->layers = detail::adapt(builder, reader.options(), plans);
  return Lora(parts);
}

void save_lora(const std::filesystem::path& folder, const Lora& lora, const std::string& base) {
  const Lora::Parts& parts = *lora.parts_;
  Json ranks = Json::object(), alphas = Json::object(), targets = Json::array();
  SafetensorsFile file;
  file.metadata.emplace("format", "pt");
  for (const auto& layer : parts.layers) {
    const std::string name = parts.name(*layer);
    const std::int64_t rank = layer->a.value().size(0);
    targets.items.push_back(Json::of(name));
    // "^" keeps PEFT from taking it for the end of another name.
    if (rank != parts.options.rank) ranks.set("^" + name, Json::of(rank));
    if (layer->alpha != parts.options.alpha) alphas.set("^" + name, number_json(layer->alpha));
    file.tensors.emplace(name_in_file(name, kA), layer->a.value());
    file.tensors.emplace(name_in_file(name, kB), layer->b.value());
  }
  Json config = Json::object();
  config.set("alpha_pattern", std::move(alphas));
  config.set("base_model_name_or_path", base.empty() ? Json() : Json::of(base));
  config.set("bias", Json::of("none"));
  config.set("fan_in_fan_out", Json::of(false));
  config.set("inference_mode", Json::of(true));
  config.set("init_lora_weights", Json::of(true));
  config.set("lora_alpha", number_json(parts.options.alpha));
  config.set("lora_dropout", number_json(parts.options.dropout));
  config.set("modules_to_save", Json());
  config.set("peft_type", Json::of("LORA"));
  config.set("r", Json::of(parts.options.rank));
  config.set("rank_pattern", std::move(ranks));
  config.set("target_modules", std::move(targets));
  config.set("task_type", Json());
  config.set("use_dora", Json::of(false));
  config.set("use_rslora", Json::of(parts.options.rank_stabilized));
  const std::filesystem::path within = detail::folder_within(folder);
  const std::filesystem::path weights_file = within / (std::string(kWeights) + ".safetensors");
  // Both are written before either is in place, so that what fails leaves the adapter that was there.
  AtomicFile weights(weights_file), settings(within / kConfig);
  tapecache::detail::write_safetensors(weights, weights_file, file);
  settings.write(config.dump());
  // While the files of two adapters are there, the folder is that of none. A link stays.
  std::error_code ignored;
  std::filesystem::remove(std::filesystem::weakly_canonical(within / kConfig, ignored), ignored);
  weights.finish();
  settings.finish();
}

std::string Lora::base_of(const std::filesystem::path& folder) {
  detail::Problems problems;
  const std::filesystem::path file = detail::folder_within(folder) / kConfig;
  const Json json = tapecache::detail::read_json(file);
  const std::string base = JsonFields(file, json, problems).text("base_model_name_or_path", "");
  problems.throw_any();
  return base;
}

bool Lora::is_in(const std::filesystem::path& folder) {
  std::error_code error;
  return std::filesystem::exists(detail::folder_within(folder) / kConfig, error);
}

}  // namespace tapecache::models
