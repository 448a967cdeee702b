#include "tapecache/models/lora.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/core/safetensors_header.h"
#include "tapecache/models/argument_checks.h"
#include "tapecache/models/config_fields.h"
#include "tapecache/models/linear_adapter.h"
#include "tapecache/models/weight_reader.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"

namespace tapecache::models {

using detail::ConfigFields;
using detail::Json;

struct [[gnu::visibility("hidden")]] Lora::Parts {
  LoraOptions options;
  std::string prefix;  // of the model's names, which files leave out
  std::vector<std::shared_ptr<LinearAdapter>> layers;

  std::string name(const LinearAdapter& layer) const { return layer.layer.substr(prefix.size()); }
};

namespace {

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model";
constexpr std::string_view kBefore = "base_model.model.", kA = ".lora_A.weight", kB = ".lora_B.weight";

/// A layer that is to be adapted, and how.
struct Plan {
  std::shared_ptr<LinearAdapter> layer;
  std::int64_t rank = 0;
  double alpha = 0;
  Tensor a = {}, b = {};  // where they are not to be drawn
};

std::string prefix_of(const Builder& builder) { return builder.prefix().empty() ? "" : builder.prefix() + "."; }

std::vector<std::shared_ptr<LinearAdapter>> adaptable_layers(const Model& model) {
  const std::string prefix = prefix_of(model.builder());
  std::vector<std::shared_ptr<LinearAdapter>> layers;
  std::ranges::copy_if(model.builder().linear_layers(), std::back_inserter(layers),
                       [&](const auto& layer) { return layer->adaptable && layer->layer.starts_with(prefix); });
  if (layers.empty()) throw ValueError("lora: the model has no linear layer that could be adapted");
  return layers;
}

/// Whether the one is the last parts of the other, or all of it.
bool ends_name(std::string_view name, std::string_view last) {
  return name == last ||
         (name.size() > last.size() && name.ends_with(last) && name[name.size() - last.size() - 1] == '.');
}

bool is_name(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
  });
}

std::function<bool(const std::string&)> matcher(const std::string& target) {
  if (target == "all-linear") return [](const std::string&) { return true; };
  if (is_name(target)) return [target](const std::string& name) { return ends_name(name, target); };
  try {
    return [expression = std::regex(target)](const std::string& name) { return std::regex_match(name, expression); };
  } catch (const std::regex_error& e) {
    throw ValueError(fmt::format("lora: target '{}' is no regular expression: {}", target, e.what()));
  }
}

void check_options(const LoraOptions& options) {
  detail::require_sizes("lora", {{"rank", options.rank}});
  detail::require_probability("lora", "dropout", options.dropout);
  if (!std::isfinite(options.alpha)) {
    throw ValueError(fmt::format("lora: alpha is {}, expected a finite number", options.alpha));
  }
}

double scale_of(double alpha, std::int64_t rank, bool stabilized) {
  const auto r = static_cast<double>(rank);
  return alpha / (stabilized ? std::sqrt(r) : r);
}

void require_free(const LinearAdapter& layer) {
  if (layer.a.defined()) throw ValueError(fmt::format("lora: layer '{}' is adapted already", layer.layer));
}

/// Makes A and B of layers that are free. Throws OutOfMemory, and then nothing is changed.
std::vector<std::shared_ptr<LinearAdapter>> adapt(const Builder& builder, const LoraOptions& options,
                                                  const std::vector<Plan>& plans) {
  struct Made {
    Parameter a, b;
  };
  const std::size_t before = builder.parameters().size();
  std::vector<Made> made;
  std::vector<std::shared_ptr<LinearAdapter>> layers;
  const auto make = [&](const std::string& name, const Shape& shape, const Init& init, const Tensor& value) {
    builder.set_first_values([&](const std::string&, const Shape&) { return value; });
    return builder.parameter(name, shape, init);
  };
  try {
    for (const Plan& plan : plans) {
      const std::string name = plan.layer->layer.substr(prefix_of(builder).size());
      const std::int64_t in = plan.layer->weight.value().size(1), out = plan.layer->weight.value().size(0);
      const double range = 1 / std::sqrt(static_cast<double>(in));  // kaiming_uniform_(a=√5)
      made.push_back({make(name + ".lora_A.weight", {plan.rank, in}, Init::uniform(-range, range), plan.a),
                      make(name + ".lora_B.weight", {out, plan.rank}, Init::constant(0), plan.b)});
      const double scale = scale_of(plan.alpha, plan.rank, options.rank_stabilized);
      made.back().b.set("lora_scale", fmt::to_string(scale));
      layers.push_back(plan.layer);
    }
  } catch (...) {
    builder.set_first_values({});
    builder.forget_parameters_from(before);
    throw;
  }
  builder.set_first_values({});
  for (std::size_t i = 0; i < before; ++i) Parameter(builder.parameters()[i]).set_requires_gradient(false);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    LinearAdapter& layer = *layers[i];
    layer.a = made[i].a;
    layer.b = made[i].b;
    layer.alpha = plans[i].alpha;
    layer.scale = scale_of(layer.alpha, plans[i].rank, options.rank_stabilized);
    layer.dropout = options.dropout;
    layer.training = builder.training_flag();
  }
  return layers;
}

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
        prefix_(prefix_of(builder_)),
        layers_(adaptable_layers(model)) {}

  std::vector<Plan> read() {
    const Json json = tapecache::detail::read_json(folder_ / kConfig);
    const ConfigFields fields(folder_ / kConfig, json, problems_);
    read_options(fields);
    problems_.throw_any();
    const detail::WeightFiles files = detail::WeightFiles::of_folder(folder_, kWeights);
    std::vector<Plan> plans = plans_of(files, fields);
    problems_.throw_any();
    return plans;
  }

  const LoraOptions& options() const { return options_; }

 private:
  void read_options(const ConfigFields& fields) {
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
        if (!is_name(key.starts_with('^') ? std::string_view(key).substr(1) : key)) {
          fields.object(pattern).refuse(key, "the name of a layer, or its last parts, in the place of an expression");
        }
      }
    }
  }

  /// Of the first pattern that a layer's name answers to.
  static std::string pattern_of(const ConfigFields& patterns, const std::string& name) {
    for (const auto& [key, value] : patterns.json().members) {
      if (key.starts_with('^') ? name == key.substr(1) : ends_name(name, key)) return key;
    }
    return name;
  }

  std::vector<Plan> plans_of(const detail::WeightFiles& files, const ConfigFields& fields) {
    const ConfigFields ranks = fields.object("rank_pattern"), alphas = fields.object("alpha_pattern");
    detail::WeightReader reader(files, {.strict = false});
    std::vector<Plan> plans;
    for (const std::string& there : layers_in(files)) {
      const std::shared_ptr<LinearAdapter> layer = layer_of(there);
      if (!layer && takes_no_part(there)) continue;
      if (!layer) {
        problems_.add(fmt::format("{}: adapts '{}', the model has no such linear layer, but '{}'",
                                  files.path().string(), there, layers_.front()->layer.substr(prefix_.size())));
        continue;
      }
      require_free(*layer);
      if (std::ranges::any_of(plans, [&](const Plan& plan) { return plan.layer == layer; })) {
        problems_.add(fmt::format("{}: adapts layer '{}' twice", files.path().string(), layer->layer));
      }
      Plan plan{layer, ranks.size(pattern_of(ranks, there), options_.rank),
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
    std::ranges::sort(plans, {}, [&](const Plan& plan) { return std::ranges::find(layers_, plan.layer); });
    for (Plan& plan : plans) {
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
      if (ends_name(name, there) || ends_name(there, name)) alike.push_back(layer);
    }
    return alike.size() == 1 ? alike.front() : nullptr;
  }

  /// Whether it is of what a folder's model keeps for saving alone, as a pooler that it does not use.
  bool takes_no_part(const std::string& there) const {
    return std::ranges::any_of(builder_.buffers(), [&](const Buffer& b) {
      return b.name.starts_with(prefix_) && ends_name(there + ".weight", b.name.substr(prefix_.size()));
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

std::vector<std::string> Lora::layers() const {
  std::vector<std::string> names;
  for (const auto& layer : parts_->layers) names.push_back(layer->layer);
  return names;
}

std::vector<Parameter> Lora::parameters() const {
  std::vector<Parameter> all;
  for (const auto& layer : parts_->layers) all.insert(all.end(), {layer->a, layer->b});
  return all;
}

bool Lora::merged() const { return parts_->layers.front()->base.defined(); }

void Lora::merge() const {
  if (merged()) return;
  std::vector<Tensor> base;
  for (const auto& layer : parts_->layers) base.push_back(layer->weight.value().clone());
  std::size_t done = 0;
  try {
    const NoRecording no_tape;
    const Autocast full(DType::kFloat32);
    for (const auto& layer : parts_->layers) {
      const Variable added = ops::scale(ops::matmul(layer->b, layer->a), layer->scale);
      layer->weight.assign(ops::add(base[done], added).value());
      ++done;
    }
  } catch (...) {
    for (std::size_t i = 0; i < done; ++i) parts_->layers[i]->weight.assign(base[i]);
    throw;
  }
  for (std::size_t i = 0; i < base.size(); ++i) parts_->layers[i]->base = base[i];
}

void Lora::unmerge() const {
  if (!merged()) return;
  std::vector<Tensor> base;  // where the model is now
  for (const auto& layer : parts_->layers) base.push_back(layer->base.to(layer->weight.value().device()));
  for (std::size_t i = 0; i < base.size(); ++i) {
    parts_->layers[i]->weight.assign(base[i]);
    parts_->layers[i]->base = Tensor();
  }
}

Lora add_lora(const Model& model, const LoraOptions& options) {
  check_options(options);
  const Builder& builder = model.builder();
  const std::vector<std::shared_ptr<LinearAdapter>> layers = adaptable_layers(model);
  const std::string prefix = prefix_of(builder);
  std::set<std::size_t> chosen;
  for (const std::string& target : options.targets) {
    const auto matches = matcher(target);
    bool matched = false;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (!matches(layers[i]->layer.substr(prefix.size()))) continue;
      chosen.insert(i);
      matched = true;
    }
    if (!matched) {
      throw ValueError(fmt::format("lora: target '{}' is no linear layer of the model; they are called like '{}'",
                                   target, layers.front()->layer.substr(prefix.size())));
    }
  }
  if (chosen.empty()) throw ValueError("lora: targets is empty, expected names of layers or \"all-linear\"");
  std::vector<Plan> plans;
  for (const std::size_t i : chosen) {
    require_free(*layers[i]);
    plans.push_back({layers[i], options.rank, options.alpha});
  }
  const auto parts = std::make_shared<Lora::Parts>(Lora::Parts{options, prefix, {}});
  parts->layers = adapt(builder, options, plans);
  return Lora(parts);
}

Lora load_lora(const std::filesystem::path& folder, const Model& model) {
  AdapterReader reader(folder, model);
  const std::vector<Plan> plans = reader.read();
  const Builder& builder = model.builder();
  const auto parts = std::make_shared<Lora::Parts>(Lora::Parts{reader.options(), prefix_of(builder), {}});
  parts->layers = adapt(builder, reader.options(), plans);
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

std::string base_of_lora(const std::filesystem::path& folder) {
  detail::Problems problems;
  const std::filesystem::path file = detail::folder_within(folder) / kConfig;
  const Json json = tapecache::detail::read_json(file);
  const std::string base = ConfigFields(file, json, problems).text("base_model_name_or_path", "");
  problems.throw_any();
  return base;
}

bool is_lora(const std::filesystem::path& folder) {
  std::error_code error;
  return std::filesystem::exists(detail::folder_within(folder) / kConfig, error);
}

}  // namespace tapecache::models
