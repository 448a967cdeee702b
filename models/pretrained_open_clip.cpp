#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/models/encoder_fields.h"
#include "tapecache/models/open_clip_names.h"
#include "tapecache/models/pretrained_siglip.h"

namespace tapecache::models::detail {

namespace {

/// The fields of a tower that change its result, where they are not what leaving them out means.
void refuse_others(const JsonFields& fields) {
  for (const char* field : {"ls_init_value", "block_type", "qk_norm", "scaled_cosine_attn", "scale_heads",
                            "scale_attn_inner", "scale_attn", "scale_fc", "final_ln_after_pool"}) {
    fields.none(field);
  }
}

/// The blocks of either tower, of these sizes where the fields are left out.
void read_blocks(const JsonFields& fields, const FamilySource& source, TransformerConfig& encoder) {
  encoder.width = fields.size("width", encoder.width);
  encoder.layers = fields.size("layers", encoder.layers);
  if (fields.has("mlp_ratio") || encoder.mlp_width == 0) {
    const double ratio = std::min(fields.positive("mlp_ratio", 4), 1024.0);
    encoder.mlp_width =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(encoder.width) * ratio));
  }
  encoder.checkpoint = source.options.checkpoint;
  encoder.dropout = source.options.dropout.value_or(0);
  if (std::cmp_greater(encoder.layers, source.files.names().size())) {
    fields.refuse_size("layers", fmt::format("fewer than the {} tensors of the files", source.files.names().size()));
  }
}

/// A text tower's, but for what becomes of its states.
TransformerConfig read_text_blocks(const JsonFields& fields, const FamilySource& source) {
  TransformerConfig encoder{.width = 512, .layers = 12, .mlp_width = 0};
  read_blocks(fields, source, encoder);
  encoder.heads = fields.size("heads", 8);
  if (encoder.width % encoder.heads != 0) {
    fields.refuse_size("heads", fmt::format("a divisor of width, {}", encoder.width));
  }
  fields.only_text("proj_type", "linear");
  for (const char* field : {"hf_model_name", "embed_cls"}) fields.none(field);
  refuse_others(fields);
  return encoder;
}

void read_head_width(const JsonFields& fields, std::int64_t otherwise, TransformerConfig& encoder) {
  const std::int64_t head_width = fields.size("head_width", otherwise);
  encoder.heads = std::max<std::int64_t>(1, encoder.width / head_width);
  if (encoder.width % head_width != 0) {
    fields.refuse_size("head_width", fmt::format("a divisor of width, {}", encoder.width));
  }
}

TextConfig read_text(const JsonFields& fields, const FamilySource& source) {
  TextConfig config;
  config.vocabulary = fields.size("vocab_size", 49408);
  config.max_tokens = fields.size("context_length", 77);
  config.pooling = TextConfig::Pooling::kLargestId;
  config.encoder = read_text_blocks(fields, source);
  fields.only_text("pool_type", "argmax");
  for (const char* field : {"no_causal_mask", "proj_bias", "act_kwargs", "norm_kwargs"}) fields.none(field);
  return config;
}

VisionConfig read_vision(const JsonFields& fields, const FamilySource& source) {
  VisionConfig config;
  config.image_size = fields.size("image_size", 224);
  config.patch_size = fields.size("patch_size", 16);
  TransformerConfig encoder{.width = 768, .layers = 12, .mlp_width = 0};
  read_blocks(fields, source, encoder);
  read_head_width(fields, 64, encoder);
  config.encoder = VisionEncoderConfig(encoder);
  if (config.image_size % config.patch_size != 0) {
    fields.refuse_size("patch_size", fmt::format("a divisor of image_size, {}", config.image_size));
  }
  fields.only_text("pool_type", "tok");
  fields.only_text("pos_embed_type", "learnable");
  for (const char* field : {"attentional_pool", "no_ln_pre", "act_kwargs", "norm_kwargs"}) fields.none(field);
  refuse_others(fields);
  return config;
}

/// A vision transformer of SigLIP's as timm has it under a name, the size of whose images follows.
struct TimmVit {
  std::string_view name;
  std::int64_t patch_size, width, layers, heads, mlp_width;
  std::array<int, 4> tanh_sizes;  ///< of the images of those whose GELU is the one by tanh; all where -1 is first
};

constexpr std::array<TimmVit, 6> kTimmVits{{{"vit_base_patch16_siglip_", 16, 768, 12, 12, 3072, {}},
                                            {"vit_base_patch32_siglip_", 32, 768, 12, 12, 3072, {-1}},
                                            {"vit_large_patch16_siglip_", 16, 1024, 24, 16, 4096, {512}},
                                            {"vit_so400m_patch14_siglip_", 14, 1152, 27, 16, 4304, {}},
                                            {"vit_so400m_patch16_siglip_", 16, 1152, 27, 16, 4304, {-1}},
                                            {"vit_giantopt_patch16_siglip_", 16, 1536, 40, 16, 6144, {-1}}}};
constexpr double kTimmEpsilon = 1e-6;

bool has_tanh(const TimmVit& vit, std::string_view size) {
  return vit.tanh_sizes.front() < 0 ||
         std::ranges::any_of(vit.tanh_sizes, [&](int other) { return size == fmt::to_string(other); });
}

/// By the fields' name of it. Sizes beside it count in the place of timm's.
SiglipVision read_timm(const JsonFields& fields, const FamilySource& source) {
  const std::string name = fields.text("timm_model_name", "");
  const auto* const vit = std::ranges::find_if(kTimmVits, [&](const TimmVit& known) {
    return name.starts_with(known.name) && name.size() > known.name.size() &&
           name.find_first_not_of("0123456789", known.name.size()) == name.npos;
  });
  if (vit == kTimmVits.end()) {
    std::vector<std::string_view> known;
    for (const TimmVit& one : kTimmVits) known.push_back(one.name);
    fields.refuse_size("timm_model_name", fmt::format("{} and the size of its images", fmt::join(known, ", ")));
    return siglip_vision(fields, 16);
  }
  SiglipVision vision = siglip_vision(fields, vit->patch_size);
  TransformerConfig encoder{.width = vit->width,
                            .layers = vit->layers,
                            .heads = vit->heads,
                            .mlp_width = vit->mlp_width,
                            .activation = Activation::kGelu,
                            .epsilon = kTimmEpsilon};
  if (has_tanh(*vit, std::string_view(name).substr(vit->name.size()))) encoder.activation = Activation::kGeluTanh;
  read_blocks(fields, source, encoder);
  if (fields.has("head_width")) read_head_width(fields, 64, encoder);
  vision.config.encoder = VisionEncoderConfig(encoder);
  if (fields.text("timm_pool", "avg") != "map") fields.refuse("timm_pool", "map, the pooling by attention");
  if (fields.text("timm_proj", "linear") != "none") fields.refuse("timm_proj", "none");
  return vision;
}

/// Of a text tower as SigLIP's: each token looks at all, and the last counts.
SiglipText read_siglip_text(const JsonFields& fields, const FamilySource& source, bool quick_gelu) {
  SiglipText text{.vocabulary = fields.size("vocab_size", 49408),
                  .max_tokens = fields.size("context_length", 77),
                  .encoder = read_text_blocks(fields, source)};
  text.padding = padding_id(fields, source, text.vocabulary);
  text.encoder.epsilon = fields.object("norm_kwargs").positive("eps", text.encoder.epsilon);
  text.encoder.activation = quick_gelu ? Activation::kQuickGelu : Activation::kGelu;
  const JsonFields activation = fields.object("act_kwargs");
  const std::string approximate = activation.text("approximate", "none");
  if (quick_gelu || (approximate != "none" && approximate != "tanh")) activation.only_text("approximate", "none");
  else if (approximate == "tanh") text.encoder.activation = Activation::kGeluTanh;
  for (const char* field : {"no_causal_mask", "proj_bias"}) {
    if (!fields.flag(field, false)) fields.refuse(field, "true beside a vision transformer of timm");
  }
  if (fields.text("pool_type", "argmax") != "last") fields.refuse("pool_type", "last, beside one of timm");
  fields.none("use_pad_mask");
  return text;
}

/// SigLIP, whose vision tower is timm's.
FamilyPlan plan_with_timm(const FamilySource& source, const JsonFields& fields) {
  const SiglipVision vision = read_timm(fields.object("vision_cfg"), source);
  SiglipText text = read_siglip_text(fields.object("text_cfg"), source, fields.flag("quick_gelu", false));
  text.projection = fields.size("embed_dim", 512);
  if (text.projection != vision.config.encoder.width) {
    fields.refuse_size("embed_dim", fmt::format("the width of the vision tower, {}", vision.config.encoder.width));
  }
  if (!fields.flag("custom_text", false)) fields.refuse("custom_text", "true beside a vision transformer of timm");
  FamilyPlan plan;
  describe(vision, plan.info);
  describe(text, plan.info);
  plan.info.normalized = true;
  if (fields.object("vision_cfg").number("timm_drop_path", 0) > 0) {
    plan.info.notes.push_back("timm_drop_path is above 0, but no paths are dropped in training");
  }
  plan.make = make_siglip(text, vision, fields.has("init_logit_bias"));
  return plan;
}

FamilyPlan plan_with_own(const FamilySource& source, const JsonFields& fields) {
  ClipConfig config;
  config.text = read_text(fields.object("text_cfg"), source);
  config.vision = read_vision(fields.object("vision_cfg"), source);
  config.projection_width = fields.size("embed_dim", 512);
  const auto activation = fields.flag("quick_gelu", false) ? Activation::kQuickGelu : Activation::kGelu;
  config.text.encoder.activation = config.vision.encoder.activation = activation;
  for (const char* field : {"custom_text", "init_logit_bias"}) fields.none(field);
  return plan_of(config);
}

}  // namespace

FamilyPlan plan_open_clip(const FamilySource& source) {
  const JsonFields fields = source.config.object("model_cfg");
  const bool has_timm = fields.object("vision_cfg").has("timm_model_name");
  for (const char* field : {"multimodal_cfg", "nonscalar_logit_scale"}) fields.none(field);
  FamilyPlan plan = has_timm ? plan_with_timm(source, fields) : plan_with_own(source, fields);
  if (fields.object("vision_cfg").number("patch_dropout", 0) > 0) {
    plan.info.notes.push_back("patch_dropout is above 0, but no patches are dropped in training");
  }
  const NameTable& names = has_timm ? kTimmNames : kOpenClipNames;
  plan.from_files = [&names](const std::string& name, const SafetensorsReader::Entry& entry) {
    return from_open_clip(names, name, entry);
  };
  plan.to_files = [&names](const NamedTensors& tensors) { return to_open_clip(names, tensors); };
  return plan;
}

}  // namespace tapecache::models::detail
