#pragma once

#include <cstdint>
#include <functional>

#include "tapecache/models/pretrained_clip.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// The text tower and its projection.
struct SiglipText {
  std::int64_t vocabulary = 0, max_tokens = 0;
  std::int64_t padding = 0;  ///< the id that texts are padded with
  std::int64_t projection = 0;
  TransformerConfig encoder = {};
};

/// The vision tower, of images whose last pixels, behind the last whole patch, no patch has.
struct SiglipVision {
  VisionConfig config = {};
  std::int64_t image_size = 0;
};

/// The id that the folder's tokenizer pads with or, where there is none that tells, `pad_token_id`.
std::int64_t padding_id(const JsonFields& fields, const FamilySource& source, std::int64_t vocabulary);

/// Of the fields of its images; without those of its encoder.
SiglipVision siglip_vision(const JsonFields& fields, std::int64_t patch_size);

void describe(const SiglipText& text, Pretrained::Info& info);
void describe(const SiglipVision& vision, Pretrained::Info& info);

/// Both towers, by the names of transformers.
std::function<FamilyModel(const Builder&)> make_siglip(const SiglipText& text, const SiglipVision& vision,
                                                       bool has_bias);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
