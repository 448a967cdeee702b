#include "tapecache/models/pretrained_siglip.h"

#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/pretrained_clip.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::models::detail {

namespace {

/// What transformers takes for fields that are left out, in both towers.
constexpr TransformerConfig kTower{
    .width = 768, .heads = 12, .mlp_width = 3072, .activation = ops::Activation::kGeluTanh, .epsilon = 1e-6};

/// A token, as tokenizer files name it: its text, or an object that has it.
std::string content(const Json* token) {
  if (!token) return "";
  const Json* const within = token->find("content");
  return within ? within->text : token->text;
}

/// The id that the folder's tokenizer pads with, where its files tell.
std::optional<std::int64_t> padding_of_tokenizer(const std::filesystem::path& folder) {
  constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 28;
  std::error_code error;
  const auto read = [&](const char* file) {
    const std::filesystem::path path = folder / file;
    if (!std::filesystem::exists(path, error)) return Json::object();
    return tapecache::detail::parse_json(path.string(), tapecache::detail::read_small_file(path, kMostBytes));
  };
  const Json config = read("tokenizer_config.json");
  const std::string name = content(config.find("pad_token"));
  if (const Json* const listed = config.find("added_tokens_decoder"); listed && !name.empty()) {
    for (const auto& [number, token] : listed->members) {
      if (content(&token) == name) return Json{.kind = Json::Kind::kNumber, .text = number}.integer();
    }
  }
  const Json tokenizer = read("tokenizer.json");
  if (const Json* const added = tokenizer.find("added_tokens"); added && !name.empty()) {
    for (const Json& token : added->items) {
      const Json* const id = token.find("id");
      if (id && content(&token) == name) return id->integer();
    }
  }
  const Json* const padding = tokenizer.find("padding");
  const Json* const id = padding ? padding->find("pad_id") : nullptr;
  return id ? id->integer() : std::nullopt;
}

}  // namespace

/// SigLIP's texts are padded with their end, 1, and SigLIP 2's with 0, of which the configuration says nothing: where
/// it is left out or written by default it is that of SigLIP. So the tokenizer counts, then what is written.
std::int64_t padding_id(const JsonFields& fields, const FamilySource& source, std::int64_t vocabulary) {
  constexpr std::int64_t kSiglipVocabulary = 32000;
  if (const auto id = padding_of_tokenizer(source.files.path().parent_path())) {
    if (*id >= 0 && *id < vocabulary) return *id;
    fields.problems().add(fmt::format("{}: its tokenizer pads with {}, expected an id below vocab_size, {}",
                                      fields.where(), *id, vocabulary));
    return 0;
  }
  if (!fields.has("pad_token_id") && vocabulary != kSiglipVocabulary) {
    fields.refuse("pad_token_id", "the id that texts are padded with, as there is no tokenizer that tells");
  }
  const std::int64_t id = fields.size("pad_token_id", 1, 0);
  if (id < vocabulary) return id;
  fields.refuse("pad_token_id", fmt::format("an id below vocab_size, {}", vocabulary));
  return 0;
}

namespace {

SiglipText read_text(const JsonFields& fields, const FamilySource& source, Pretrained::Info& info) {
  SiglipText text{.vocabulary = fields.size("vocab_size", 32000),
                  .max_tokens = fields.size("max_position_embeddings", 64),
                  .encoder = read_encoder(fields, source, kTower)};
  text.encoder.dropout = source.options.dropout.value_or(0);
  text.padding = padding_id(fields, source, text.vocabulary);
  text.projection = fields.size("projection_size", text.encoder.width);
  note_attention_dropout(fields, "attention_dropout", info);
  describe(text, info);
  return text;
}

SiglipVision read_vision(const JsonFields& fields, const FamilySource& source, Pretrained::Info& info) {
  SiglipVision vision = siglip_vision(fields, 16);
  vision.config.channels = fields.size("num_channels", 3);
  vision.config.encoder = VisionEncoderConfig(read_encoder(fields, source, kTower));
  vision.config.encoder.dropout = source.options.dropout.value_or(0);
  fields.only_flag("vision_use_head", true);
  note_attention_dropout(fields, "attention_dropout", info);
  describe(vision, info);
  return vision;
}

TextConfig config_of(const SiglipText& text) {
  return {.vocabulary = text.vocabulary,
          .max_tokens = text.max_tokens,
          .causal = false,
          .pooling = TextConfig::Pooling::kLastToken,
          .padding = text.padding,
          .encoder = text.encoder};
}

/// The tower and its projection.
class TextTower {
 public:
  TextTower(const Builder& builder, const SiglipText& text)
      : transformer_(builder, config_of(text)),
        head_(builder.child("head"), text.encoder.width, text.projection, Init::normal(0.02)) {}
  Variable operator()(const TokenBatch& tokens) const { return head_(transformer_(tokens)); }

 private:
  TextTransformer transformer_;
  Linear head_;
};

class VisionTower {
 public:
  VisionTower(const Builder& builder, const SiglipVision& vision)
      : transformer_(builder, vision.config), given_(vision.image_size), used_(vision.config.image_size) {}
  Variable operator()(const Variable& images) const {
    if (given_ == used_) return transformer_(images);
    if (images.rank() != 4 || images.size(2) != given_ || images.size(3) != given_) {
      throw ShapeError(fmt::format("siglip: images have shape {}, expected [batch, channels, {}, {}]",
                                   to_string(images.shape()), given_, given_));
    }
    return transformer_(ops::slice(ops::slice(images, 2, 0, used_), 3, 0, used_));
  }

 private:
  VisionTransformer transformer_;
  std::int64_t given_, used_;  // a side of the images, and of what whole patches there are of it
};

/// These are written as vectors of one.
NamedTensors with_vectors(const NamedTensors& tensors) {
  NamedTensors written = tensors;
  for (const char* name : {"logit_scale", "logit_bias"}) written.at(name) = written.at(name).reshape({1});
  return written;
}

}  // namespace

SiglipVision siglip_vision(const JsonFields& fields, std::int64_t patch_size) {
  SiglipVision vision{{.patch_size = fields.size("patch_size", patch_size),
                       .pooling = VisionConfig::Pooling::kAttention,
                       .class_token = false,
                       .patch_bias = true,
                       .pre_norm = false},
                      fields.size("image_size", 224)};
  VisionConfig& config = vision.config;
  config.image_size = vision.image_size / config.patch_size * config.patch_size;
  if (config.image_size == 0) {
    fields.refuse_size("patch_size", fmt::format("at most image_size, {}", vision.image_size));
    config.image_size = config.patch_size;
  }
  return vision;
}

void describe(const SiglipText& text, Pretrained::Info& info) {
  info.pooling = name(TokenPooling::kLastToken);
  info.width = text.projection;
  info.vocabulary = text.vocabulary;
  info.max_tokens = text.max_tokens;
}

void describe(const SiglipVision& vision, Pretrained::Info& info) {
  info.width = vision.config.encoder.width;
  info.image_size = vision.image_size;
  info.image_channels = vision.config.channels;
}

std::function<FamilyModel(const Builder&)> make_siglip(const SiglipText& text, const SiglipVision& vision,
                                                       bool has_bias) {
  return [text, vision, has_bias](const Builder& builder) {
    const auto texts = std::make_shared<const TextTower>(builder.child("text_model"), text);
    const auto images = std::make_shared<const VisionTower>(builder.child("vision_model"), vision);
    FamilyModel model;
    model.texts = [texts](const TokenBatch& tokens) { return ops::l2_normalize((*texts)(tokens)); };
    model.images = [images](const Variable& given) { return ops::l2_normalize((*images)(given)); };
    model.logit_scale = builder.parameter("logit_scale", {}, Init::constant(0));
    if (has_bias) model.logit_bias = builder.parameter("logit_bias", {}, Init::constant(0));
    return model;
  };
}

FamilyPlan plan_siglip(const FamilySource& source) {
  FamilyPlan plan;
  const JsonFields texts = source.config.object("text_config");
  const SiglipVision vision = read_vision(source.config.object("vision_config"), source, plan.info);
  const SiglipText text = read_text(texts, source, plan.info);
  if (text.projection != vision.config.encoder.width) {
    texts.refuse_size("projection_size",
                      fmt::format("the hidden_size of vision_config, {}", vision.config.encoder.width));
  }
  plan.info.normalized = true;
  plan.saved_class = "SiglipModel";
  plan.to_files = with_vectors;
  plan.make = make_siglip(text, vision, true);
  return plan;
}

FamilyPlan plan_siglip_text(const FamilySource& source) {
  constexpr TowerKind kText{"text_model", "embeddings.token_embedding.weight", "SiglipTextModel"};
  Pretrained::Info info;
  const SiglipText text = read_text(source.config, source, info);
  return plan_of_tower<TextTower>(source, kText, text, std::move(info), &FamilyModel::texts);
}

FamilyPlan plan_siglip_vision(const FamilySource& source) {
  constexpr TowerKind kVision{"vision_model", "embeddings.patch_embedding.weight", "SiglipVisionModel"};
  Pretrained::Info info;
  const SiglipVision vision = read_vision(source.config, source, info);
  return plan_of_tower<VisionTower>(source, kVision, vision, std::move(info), &FamilyModel::images);
}

}  // namespace tapecache::models::detail
