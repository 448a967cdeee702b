#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/pretrained_parts.h"
#include "tapecache/models/vit.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::models::detail {

namespace {

/// What the architectures differ in besides their fields.
struct Kind {
  const char *model_class, *classifier_class;
  const char* prefix;  // of the encoder's names beside a classifier
  std::int64_t patch_size;
  double epsilon;
  BlockStyle block;
};

constexpr MultiHeadAttention::Names kAttention{"attention.attention.query", "attention.attention.key",
                                               "attention.attention.value", "attention.output.dense"};
constexpr Kind kVit{"ViTModel",
                    "ViTForImageClassification",
                    "vit.",
                    16,
                    1e-12,
                    {.name = "vit block",
                     .attention = kAttention,
                     .norm1 = "layernorm_before",
                     .norm2 = "layernorm_after",
                     .fc1 = "intermediate.dense",
                     .fc2 = "output.dense",
                     .weights = Init::normal(0.02)}};
constexpr BlockStyle kDinov2Block{.name = "dinov2 block",
                                  .attention = kAttention,
                                  .norm1 = "norm1",
                                  .norm2 = "norm2",
                                  .weights = Init::normal(0.02),
                                  .scale1 = "layer_scale1.lambda1",
                                  .scale2 = "layer_scale2.lambda1"};
constexpr Kind kDinov2{"Dinov2Model", "Dinov2ForImageClassification", "dinov2.", 14, 1e-6, kDinov2Block};
constexpr Kind kWithRegisters{"Dinov2WithRegistersModel",
                              "Dinov2WithRegistersForImageClassification",
                              "dinov2_with_registers.",
                              16,
                              1e-6,
                              kDinov2Block};

/// What the names of the encoder begin with in the files.
std::string prefix_of(const WeightFiles& files) {
  constexpr std::string_view kKnown = "embeddings.cls_token";
  for (const std::string& name : files.names()) {
    if (name == kKnown || name.ends_with(std::string(".").append(kKnown))) {
      return name.substr(0, name.size() - kKnown.size());
    }
  }
  return "";
}

VitConfig read_config(const FamilySource& source, const Kind& kind, Pretrained::Info& info) {
  const JsonFields& fields = source.config;
  VitConfig config{.image_size = fields.size("image_size", 224),
                   .patch_size = fields.size("patch_size", kind.patch_size),
                   .channels = fields.size("num_channels", 3),
                   .block = kind.block};
  config.encoder = read_encoder(
      fields, source,
      {.width = 768, .heads = 12, .mlp_width = 3072, .activation = ops::Activation::kGelu, .epsilon = kind.epsilon});
  config.embedding_dropout = source.options.dropout.value_or(fields.probability("hidden_dropout_prob", 0));
  config.block.in_bias = fields.flag("qkv_bias", true);
  if (config.image_size % config.patch_size != 0) {
    fields.refuse_size("patch_size", fmt::format("a divisor of image_size, {}", config.image_size));
  }
  note_attention_dropout(fields, "attention_probs_dropout_prob", info);
  info.width = config.encoder.width;
  info.image_size = config.image_size;
  info.image_channels = config.channels;
  return config;
}

VitConfig read_dinov2(const FamilySource& source, const Kind& kind, Pretrained::Info& info) {
  const JsonFields& fields = source.config;
  VitConfig config = read_config(source, kind, info);
  config.other_sizes = VitConfig::OtherSizes::kInterpolated;
  info.image_patch = config.patch_size;
  config.encoder.drop_path = fields.probability("drop_path_rate", 0);
  const double ratio = std::min(fields.positive("mlp_ratio", 4), 1024.0);
  config.encoder.mlp_width =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(config.encoder.width) * ratio));
  if (fields.flag("use_swiglu_ffn", false)) {  // whatever hidden_act says
    config.encoder.activation = ops::Activation::kSilu;
    config.encoder.mlp_width = (config.encoder.mlp_width * 2 / 3 + 7) / 8 * 8;
    config.block.fc1 = "mlp.weights_in";
    config.block.fc2 = "mlp.weights_out";
    config.block.gated = true;
  }
  return config;
}

/// By their ids. A configuration without labels means two.
std::vector<std::string> labels_of(const JsonFields& fields) {
  if (!fields.has("id2label")) return {"LABEL_0", "LABEL_1"};
  const JsonFields named = fields.object("id2label");
  std::vector<std::string> labels(named.json().members.size());
  for (const auto& [id, label] : named.json().members) {
    std::size_t place = labels.size();
    const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), place);
    if (error != std::errc() || end != id.data() + id.size() || place >= labels.size()) {
      fields.refuse("id2label", fmt::format("labels of the ids from 0 to {}", labels.size() - 1));
      break;
    }
    labels[place] = named.text(id, "");
  }
  return labels;
}

/// transformers' ViTPooler.
struct Pooler {
  Linear dense;
  Variable operator()(const Variable& state) const { return ops::tanh(dense(state)); }
};

FamilyPlan plan_of(const FamilySource& source, const Kind& kind, const VitConfig& config, FamilyPlan plan) {
  const bool is_dinov2 = config.block.scale1 != nullptr;
  const std::string prefix = prefix_of(source.files);
  const bool classifies = source.files.contains("classifier.weight");
  const bool has_pooler = !is_dinov2 && !classifies && source.files.contains(prefix + "pooler.dense.weight");
  std::int64_t pooled = 0;
  if (has_pooler) {
    source.config.only_text("pooler_act", "tanh");
    pooled = source.config.size("pooler_output_size", config.encoder.width);
    plan.info.width = pooled;
  }
  for (const char* name : {"embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"}) {
    const bool is_used = has_pooler && std::string_view(name).starts_with("pooler.");
    if (!is_used && source.files.contains(prefix + name)) plan.kept.push_back(name);
  }
  if (classifies) plan.info.labels = labels_of(source.config);
  plan.saved_class = classifies ? kind.classifier_class : kind.model_class;
  plan.from_files = [prefix](const std::string& name, const SafetensorsReader::Entry&) {
    return std::vector<RenamedTensor>{{name.starts_with(prefix) ? name.substr(prefix.size()) : name}};
  };
  if (classifies) {
    plan.to_files = [before = std::string(kind.prefix)](const NamedTensors& tensors) {
      NamedTensors named;
      for (const auto& [name, tensor] : tensors) {
        named.emplace(name.starts_with("classifier.") ? name : before + name, tensor);
      }
      return named;
    };
  }
  const auto labels = static_cast<std::int64_t>(plan.info.labels.size());
  plan.make = [config, is_dinov2, pooled, labels](const Builder& builder) {
    const auto vit = std::make_shared<const Vit>(builder, config);
    const std::int64_t width = config.encoder.width;
    FamilyModel model;
    model.images = [vit](const Variable& images) { return (*vit)(images); };
    if (pooled > 0) {
      const Pooler pooler{Linear(builder.child("pooler.dense"), width, pooled, Init::normal(0.02))};
      model.images = [vit, pooler](const Variable& images) { return pooler((*vit)(images)); };
    }
    if (labels == 0) return model;
    const Linear head(builder.child("classifier"), is_dinov2 ? 2 * width : width, labels, Init::normal(0.02));
    model.classes = [vit, is_dinov2, head](const Variable& images) {
      return head(is_dinov2 ? vit->class_and_patches(images) : (*vit)(images));
    };
    return model;
  };
  return plan;
}

}  // namespace

FamilyPlan plan_vit(const FamilySource& source) {
  FamilyPlan plan;
  VitConfig config = read_config(source, kVit, plan.info);
  config.encoder.dropout = config.embedding_dropout;
  return plan_of(source, kVit, config, std::move(plan));
}

FamilyPlan plan_dinov2(const FamilySource& source) {
  FamilyPlan plan;
  const VitConfig config = read_dinov2(source, kDinov2, plan.info);
  return plan_of(source, kDinov2, config, std::move(plan));
}

FamilyPlan plan_dinov2_with_registers(const FamilySource& source) {
  FamilyPlan plan;
  VitConfig config = read_dinov2(source, kWithRegisters, plan.info);
  config.registers = source.config.size("num_register_tokens", 4, 0);
  config.other_sizes = VitConfig::OtherSizes::kAntialiased;
  return plan_of(source, kWithRegisters, config, std::move(plan));
}

}  // namespace tapecache::models::detail
