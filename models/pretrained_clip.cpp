#include "tapecache/models/pretrained_clip.h"

#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tapecache/models/encoder_fields.h"

namespace tapecache::models::detail {

namespace {

/// As transformers reads it: its first version wrote 2 where it meant the largest id of a text, which its models still
/// look for.
void read_end_of_text(const JsonFields& fields, TextConfig& config) {
  constexpr std::int64_t kLegacy = 2;
  const std::int64_t id = fields.size("eos_token_id", 49407, 0);
  if (id == kLegacy) {
    config.pooling = TextConfig::Pooling::kLargestId;
  } else if (id < config.vocabulary) {
    config.end_of_text = id;
  } else {
    fields.refuse("eos_token_id", fmt::format("an id below vocab_size, {}", config.vocabulary));
  }
}

TextConfig read_text(const JsonFields& fields, const FamilySource& source, Pretrained::Info& info) {
  TextConfig config;
  config.vocabulary = fields.size("vocab_size", 49408);
  config.max_tokens = fields.size("max_position_embeddings", 77);
  config.encoder = read_encoder(fields, source, config.encoder);
  config.encoder.dropout = source.options.dropout.value_or(0);
  read_end_of_text(fields, config);
  note_attention_dropout(fields, "attention_dropout", info);
  return config;
}

VisionConfig read_vision(const JsonFields& fields, const FamilySource& source, Pretrained::Info& info) {
  VisionConfig config;
  config.image_size = fields.size("image_size", 224);
  config.patch_size = fields.size("patch_size", 32);
  config.channels = fields.size("num_channels", 3);
  config.encoder = VisionEncoderConfig(read_encoder(fields, source, TransformerConfig(config.encoder)));
  config.encoder.dropout = source.options.dropout.value_or(0);
  if (config.image_size % config.patch_size != 0) {
    fields.refuse_size("patch_size", fmt::format("a divisor of image_size, {}", config.image_size));
  }
  note_attention_dropout(fields, "attention_dropout", info);
  return config;
}

/// The fields of a tower. Where an older file has them twice, those of `NAME_dict` count.
JsonFields tower(const JsonFields& fields, const std::string& name) {
  return fields.object(fields.has(name + "_dict") ? name + "_dict" : name);
}

constexpr TowerKind kText{.name = "text_model",
                          .known = "embeddings.token_embedding.weight",
                          .saved_class = "CLIPTextModel",
                          .projection = "text_projection",
                          .projecting_class = "CLIPTextModelWithProjection"};
constexpr TowerKind kVision{.name = "vision_model",
                            .known = "embeddings.patch_embedding.weight",
                            .saved_class = "CLIPVisionModel",
                            .projection = "visual_projection",
                            .projecting_class = "CLIPVisionModelWithProjection"};

}  // namespace

std::int64_t name_tower(FamilyPlan& plan, const FamilySource& source, const TowerKind& kind) {
  const bool projects = kind.projection && source.files.contains(std::string(kind.projection) + ".weight");
  plan.saved_class = projects ? kind.projecting_class : kind.saved_class;
  if (projects) plan.info.width = source.config.size("projection_dim", 512);
  if (!source.files.contains(kind.known)) return projects ? plan.info.width : 0;
  const std::string before = std::string(kind.name) + ".";
  plan.from_files = [before](const std::string& name, const SafetensorsReader::Entry&) {
    const bool is_outside = name.find("_projection.") != std::string::npos;
    return std::vector<RenamedTensor>{{is_outside ? name : before + name}};
  };
  plan.to_files = [before](const NamedTensors& tensors) {
    NamedTensors named;
    for (const auto& [name, tensor] : tensors) {
      named.emplace(name.starts_with(before) ? name.substr(before.size()) : name, tensor);
    }
    return named;
  };
  return projects ? plan.info.width : 0;
}

FamilyPlan plan_of(const ClipConfig& config, bool normalizes) {
  FamilyPlan plan;
  plan.info.pooling = "end of text";
  plan.info.normalized = normalizes;
  plan.info.width = config.projection_width;
  plan.info.vocabulary = config.text.vocabulary;
  plan.info.max_tokens = config.text.max_tokens;
  plan.info.image_size = config.vision.image_size;
  plan.info.image_channels = config.vision.channels;
  plan.make = [config, normalizes](const Builder& builder) {
    const auto clip = std::make_shared<const Clip>(builder, config);
    FamilyModel model;
    model.texts = [clip, normalizes](const TokenBatch& tokens) { return clip->encode_text(tokens, normalizes); };
    model.images = [clip, normalizes](const Variable& images) { return clip->encode_image(images, normalizes); };
    model.logit_scale = clip->logit_scale();
    return model;
  };
  return plan;
}

FamilyPlan plan_clip(const FamilySource& source) {
  Pretrained::Info info;
  ClipConfig config;
  config.text = read_text(tower(source.config, "text_config"), source, info);
  config.vision = read_vision(tower(source.config, "vision_config"), source, info);
  config.projection_width = source.config.size("projection_dim", 512);
  FamilyPlan plan = plan_of(config, !source.has_modules);
  plan.info.notes = std::move(info.notes);
  plan.saved_class = "CLIPModel";
  return plan;
}

FamilyPlan plan_clip_text(const FamilySource& source) {
  Pretrained::Info info;
  const TextConfig config = read_text(source.config, source, info);
  info.pooling = "end of text";
  info.width = config.encoder.width;
  info.vocabulary = config.vocabulary;
  info.max_tokens = config.max_tokens;
  return plan_of_tower<TextTransformer>(source, kText, config, std::move(info), &FamilyModel::texts);
}

FamilyPlan plan_clip_vision(const FamilySource& source) {
  Pretrained::Info info;
  const VisionConfig config = read_vision(source.config, source, info);
  info.width = config.encoder.width;
  info.image_size = config.image_size;
  info.image_channels = config.channels;
  return plan_of_tower<VisionTransformer>(source, kVision, config, std::move(info), &FamilyModel::images);
}

}  // namespace tapecache::models::detail
