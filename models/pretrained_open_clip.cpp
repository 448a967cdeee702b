#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/pretrained_clip.h"

namespace tapecache::models::detail {

namespace {

struct Names {
  std::string_view theirs, ours;
};

/// What stands for itself, or as the transposed of a Linear's weight.
constexpr std::array<Names, 14> kNames{
    {{"logit_scale", "logit_scale"},
     {"positional_embedding", "text_model.embeddings.position_embedding.weight"},
     {"token_embedding.weight", "text_model.embeddings.token_embedding.weight"},
     {"ln_final.weight", "text_model.final_layer_norm.weight"},
     {"ln_final.bias", "text_model.final_layer_norm.bias"},
     {"text_projection", "text_projection.weight"},
     {"visual.class_embedding", "vision_model.embeddings.class_embedding"},
     {"visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"},
     {"visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"},
     {"visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"},
     {"visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"},
     {"visual.ln_post.weight", "vision_model.post_layernorm.weight"},
     {"visual.ln_post.bias", "vision_model.post_layernorm.bias"},
     {"visual.proj", "visual_projection.weight"}}};

bool is_transposed(std::string_view theirs) { return theirs == "text_projection" || theirs == "visual.proj"; }

constexpr std::array<Names, 2> kTowers{{{"visual.transformer.resblocks.", "vision_model.encoder.layers."},
                                        {"transformer.resblocks.", "text_model.encoder.layers."}}};
constexpr std::array<Names, 5> kParts{{{"ln_1.", "layer_norm1."},
                                       {"ln_2.", "layer_norm2."},
                                       {"mlp.c_fc.", "mlp.fc1."},
                                       {"mlp.c_proj.", "mlp.fc2."},
                                       {"attn.out_proj.", "self_attn.out_proj."}}};
/// Its rows are those of the three one after another.
constexpr std::string_view kFused = "attn.in_proj_";
constexpr std::array<std::string_view, 3> kFusedParts{"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."};

/// A name within a tower's blocks: the tower, the number with its dot, and the rest. Empty where it is none.
struct BlockName {
  const Names* tower = nullptr;
  std::string number, rest;
};

BlockName block_name(std::string_view name, std::string_view Names::*side) {
  for (const Names& tower : kTowers) {
    if (!name.starts_with(tower.*side)) continue;
    const std::string_view after = name.substr((tower.*side).size());
    const std::size_t dot = after.find('.');
    if (dot == std::string_view::npos) return {};
    return {&tower, std::string(after.substr(0, dot + 1)), std::string(after.substr(dot + 1))};
  }
  return {};
}

std::vector<RenamedTensor> from_files(const std::string& theirs, const SafetensorsReader::Entry& entry) {
  for (const Names& names : kNames) {
    if (names.theirs != theirs) continue;
    return {{std::string(names.ours), {}, is_transposed(theirs) && entry.sizes.size() == 2}};
  }
  const BlockName block = block_name(theirs, &Names::theirs);
  if (!block.tower) return {{theirs}};
  const std::string before = std::string(block.tower->ours) + block.number;
  for (const Names& part : kParts) {
    if (block.rest.starts_with(part.theirs)) {
      return {{before + std::string(part.ours) + block.rest.substr(part.theirs.size())}};
    }
  }
  if (!block.rest.starts_with(kFused) || entry.sizes.empty() || entry.sizes.front() % 3 != 0) return {{theirs}};
  std::vector<RenamedTensor> parts;
  const std::int64_t rows = entry.sizes.front() / 3;
  for (std::int64_t i = 0; i < 3; ++i) {
    parts.push_back({before + std::string(kFusedParts[static_cast<std::size_t>(i)]) + block.rest.substr(kFused.size()),
                     std::pair(i * rows, (i + 1) * rows)});
  }
  return parts;
}

/// The rows of three tensors as those of one.
Tensor fused(const std::array<Tensor, 3>& parts) {
  Shape shape = parts[0].shape();
  shape = shape.with(0, 3 * shape[0]);
  Tensor all = Tensor::empty(shape, parts[0].dtype());
  const std::int64_t rows = shape[0] / 3;
  for (std::int64_t i = 0; i < 3; ++i) {
    all.slice(i * rows, (i + 1) * rows).copy_from(parts[static_cast<std::size_t>(i)].to(Device::cpu()));
  }
  return all;
}

NamedTensors to_files(const NamedTensors& ours) {
  NamedTensors theirs;
  for (const Names& names : kNames) {
    const Tensor& tensor = ours.at(std::string(names.ours));
    theirs.emplace(names.theirs, is_transposed(names.theirs) ? transposed(tensor.to(Device::cpu())) : tensor);
  }
  for (const auto& [name, tensor] : ours) {
    const BlockName block = block_name(name, &Names::ours);
    if (!block.tower) continue;
    const std::string before = std::string(block.tower->theirs) + block.number;
    for (const Names& part : kParts) {
      if (!block.rest.starts_with(part.ours)) continue;
      theirs.emplace(before + std::string(part.theirs) + block.rest.substr(part.ours.size()), tensor);
    }
    if (!block.rest.starts_with(kFusedParts.front())) continue;
    const std::string kind = block.rest.substr(kFusedParts.front().size());
    std::array<Tensor, 3> parts;
    for (std::size_t i = 0; i < 3; ++i) {
      parts[i] = ours.at(std::string(block.tower->ours) + block.number + std::string(kFusedParts[i]) + kind);
    }
    theirs.emplace(before + std::string(kFused) + kind, fused(parts));
  }
  return theirs;
}

/// The fields of a tower that change its result, where they are not what leaving them out means.
void refuse_others(const ConfigFields& fields) {
  for (const char* field : {"ls_init_value", "act_kwargs", "norm_kwargs", "block_type", "qk_norm", "scaled_cosine_attn",
                            "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc", "final_ln_after_pool"}) {
    fields.none(field);
  }
}

std::int64_t mlp_width(const ConfigFields& fields, std::int64_t width) {
  const double ratio = fields.positive("mlp_ratio", 4);
  return static_cast<std::int64_t>(static_cast<double>(width) * std::min(ratio, 1024.0));
}

void require_fewer_than_tensors(const ConfigFields& fields, std::int64_t layers, const FamilySource& source) {
  if (std::cmp_greater(layers, source.files.names().size())) {
    fields.refuse_size("layers", fmt::format("fewer than the {} tensors of the files", source.files.names().size()));
  }
}

TextConfig read_text(const ConfigFields& fields, const FamilySource& source) {
  TextConfig config;
  config.vocabulary = fields.size("vocab_size", 49408);
  config.max_tokens = fields.size("context_length", 77);
  config.end_of_text = config.vocabulary - 1;  // what the largest id is in a text that has it
  config.encoder.width = fields.size("width", 512);
  config.encoder.layers = fields.size("layers", 12);
  config.encoder.heads = fields.size("heads", 8);
  config.encoder.mlp_width = mlp_width(fields, config.encoder.width);
  if (config.encoder.width % config.encoder.heads != 0) {
    fields.refuse_size("heads", fmt::format("a divisor of width, {}", config.encoder.width));
  }
  require_fewer_than_tensors(fields, config.encoder.layers, source);
  fields.only_text("pool_type", "argmax");
  fields.only_text("proj_type", "linear");
  for (const char* field : {"hf_model_name", "embed_cls", "no_causal_mask", "proj_bias"}) fields.none(field);
  refuse_others(fields);
  return config;
}

VisionConfig read_vision(const ConfigFields& fields, const FamilySource& source) {
  VisionConfig config;
  config.image_size = fields.size("image_size", 224);
  config.patch_size = fields.size("patch_size", 16);
  config.encoder.width = fields.size("width", 768);
  config.encoder.layers = fields.size("layers", 12);
  const std::int64_t head_width = fields.size("head_width", 64);
  config.encoder.heads = std::max<std::int64_t>(1, config.encoder.width / head_width);
  config.encoder.mlp_width = mlp_width(fields, config.encoder.width);
  if (config.encoder.width % head_width != 0) {
    fields.refuse_size("head_width", fmt::format("a divisor of width, {}", config.encoder.width));
  }
  if (config.image_size % config.patch_size != 0) {
    fields.refuse_size("patch_size", fmt::format("a divisor of image_size, {}", config.image_size));
  }
  require_fewer_than_tensors(fields, config.encoder.layers, source);
  fields.only_text("pool_type", "tok");
  fields.only_text("pos_embed_type", "learnable");
  for (const char* field : {"timm_model_name", "attentional_pool", "no_ln_pre"}) fields.none(field);
  refuse_others(fields);
  return config;
}

}  // namespace

FamilyPlan plan_open_clip(const FamilySource& source) {
  const ConfigFields fields = source.config.object("model_cfg");
  ClipConfig config;
  config.text = read_text(fields.object("text_cfg"), source);
  config.vision = read_vision(fields.object("vision_cfg"), source);
  config.projection_width = fields.size("embed_dim", 512);
  const auto activation = fields.flag("quick_gelu", false) ? Activation::kQuickGelu : Activation::kGelu;
  config.text.encoder.activation = config.vision.encoder.activation = activation;
  config.text.encoder.checkpoint = config.vision.encoder.checkpoint = source.options.checkpoint;
  config.text.encoder.dropout = config.vision.encoder.dropout = source.options.dropout.value_or(0);
  for (const char* field : {"custom_text", "multimodal_cfg", "init_logit_bias", "nonscalar_logit_scale"}) {
    fields.none(field);
  }
  FamilyPlan plan = plan_of(config);
  if (fields.object("vision_cfg").number("patch_dropout", 0) > 0) {
    plan.info.notes.push_back("patch_dropout is above 0, but no patches are dropped in training");
  }
  plan.from_files = from_files;
  plan.to_files = to_files;
  return plan;
}

}  // namespace tapecache::models::detail
