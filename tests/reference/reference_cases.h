#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tapecache/core/files.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/pretrained.h"
#include "tapecache/ops/layout.h"

namespace tapecache::testing {

/// A folder that another library saved, and what that library makes of its model.
struct ReferenceCase {
  std::string name;
  models::PretrainedOptions options = {};
  double float64_tolerance = 1e-10;

  std::filesystem::path folder() const { return std::filesystem::path(TAPECACHE_REFERENCE) / name; }
  SafetensorsFile reference() const { return read_safetensors(folder() / "reference.safetensors"); }
  models::Pretrained load(DType dtype = DType::kFloat32) const {
    models::PretrainedOptions with = options;
    with.dtype = dtype;
    return models::load_pretrained(folder(), with);
  }
};

inline const std::vector<ReferenceCase>& reference_cases() {
  // transformers takes the angles of rotary positions and root mean squares in f32, whatever the model is of.
  constexpr double kRotary = 1e-5;
  static const std::vector<ReferenceCase> cases{{"bert_mean"},
                                                {"bert_cls_shards"},
                                                {"bert_dense"},
                                                {"bert_last_left"},
                                                {"bert_weighted"},
                                                {"bert_pooler", {.pooler = true}},
                                                {"clip"},
                                                {"clip_end"},
                                                {"clip_text"},
                                                {"clip_text_projection"},
                                                {"clip_vision"},
                                                {"clip_vision_projection"},
                                                {"open_clip"},
                                                {"open_clip_quick"},
                                                {"xlm_roberta"},
                                                {"roberta"},
                                                {"mpnet"},
                                                {"modernbert", {}, kRotary},
                                                {"modernbert_masked", {}, kRotary},
                                                {"qwen3", {}, kRotary},
                                                {"qwen2", {}, kRotary},
                                                {"llama", {}, kRotary},
                                                {"mistral", {}, kRotary},
                                                {"sentence_clip"},
                                                {"siglip"},
                                                {"siglip_text"},
                                                {"siglip_vision"},
                                                {"open_clip_siglip"},
                                                {"vit"},
                                                {"vit_bare"},
                                                {"vit_classes"},
                                                {"dinov2"},
                                                {"dinov2_classes"},
                                                {"dinov2_registers"},
                                                {"dinov2_registers_classes"}};
  return cases;
}

/// What make_references.py gives a model to encode.
struct ReferenceInputs {
  models::TokenBatch texts;
  Tensor images;

  ReferenceInputs(const SafetensorsFile& file, DType dtype) {
    const auto found = [&](const char* name) {
      const auto at = file.tensors.find(name);
      return at == file.tensors.end() ? Tensor() : at->second;
    };
    texts = {found("ids"), found("valid"), found("types")};
    if (const Tensor all = found("images"); all.defined()) images = all.to(dtype);
  }
};

/// What it makes of that, and the loss that it takes.
struct ReferenceResults {
  Variable texts, images, logits, loss;

  ReferenceResults(const models::Pretrained& model, const ReferenceInputs& inputs) {
    constexpr double kScale = 0.3;
    if (model.encodes_texts()) texts = model.encode(inputs.texts);
    if (model.encodes_images()) images = model.encode_images(inputs.images);
    if (model.classifies_images()) logits = model.classify_images(inputs.images);
    if (texts.defined() && images.defined() && model.logit_bias()) {
      loss = losses::siglip_loss(images, texts,
                                 {.scale = losses::Scale::from_log(*model.logit_scale()), .bias = *model.logit_bias()});
      return;
    }
    if (texts.defined() && images.defined()) {
      loss = losses::clip_loss(images, texts, {.scale = losses::Scale::from_log(*model.logit_scale())});
      return;
    }
    const Variable z = logits.defined() ? logits : texts.defined() ? texts : images;
    const std::int64_t half = z.size(0) / 2;
    loss = losses::info_nce(ops::slice(z, 0, 0, half), ops::slice(z, 0, half, 2 * half), {.scale = kScale});
  }
};

}  // namespace tapecache::testing
