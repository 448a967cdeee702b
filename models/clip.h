#pragma once

#include <cstdint>
#include <optional>

#include "tapecache/models/builder.h"
#include "tapecache/models/token_batch.h"
#include "tapecache/models/transformer_block.h"
#include "tapecache/models/vision_transformer.h"

namespace tapecache::models {

struct TextConfig {
  /// What a text's vector is taken from: the first end-of-text token, as in CLIP; the first token of the largest id,
  /// which that is unless tokens were added, as in its older versions and OpenCLIP; the last valid token; the mean of
  /// the valid ones.
  enum class Pooling { kEndOfText, kLargestId, kLastToken, kMean };

  std::int64_t vocabulary = 49408;
  std::int64_t max_tokens = 77;
  bool causal = true;
  Pooling pooling = Pooling::kEndOfText;
  std::optional<std::int64_t> end_of_text =
      {};  ///< the id that kEndOfText looks for; unset: the last of the vocabulary
  /// The id that each text is padded with to max_tokens, which is then a token as any other, also where the batch has
  /// padding of its own, as in SigLIP. Unset: padding takes no part.
  std::optional<std::int64_t> padding = {};
  TransformerConfig encoder = {};

  /// Returns the config. Throws ValueError for sizes below 1, an end of text or a padding outside the vocabulary and as
  /// that of the encoder.
  const TextConfig& checked() const;
};

/// CLIP's text tower (Radford et al. 2021), with parameter names as in a Hugging Face CLIP checkpoint's `text_model`.
/// Token embedding by N(0, 0.02²), positions by N(0, 0.01²), as OpenAI's.
class TextTransformer : public Model {
 public:
  /// Throws as the config's `checked`, before the first parameter is made.
  TextTransformer(const TextConfig& config, std::uint64_t seed, DType dtype = DType::kFloat32)
      : TextTransformer(Builder(seed, dtype), config) {}
  /// The same under the name of a builder, whose list other parts may share.
  TextTransformer(const Builder& builder, const TextConfig& config);
  /// [batch, width], pooled over the valid tokens: all where there is no mask. Throws as `TokenBatch::check`, and
  /// ValueError naming a sample without the end-of-text token that is to be pooled or, where padding is a token, one
  /// that is padded on the left.
  Variable operator()(const TokenBatch& tokens) const;
  /// [batch, tokens, width]: each token's state after the last norm, not pooled. Throws as above.
  Variable hidden_states(const TokenBatch& tokens) const;

 private:
  /// The tokens as the encoder is given them.
  TokenBatch padded(const TokenBatch& tokens) const;
  Variable embed(const TokenBatch& tokens) const;
  Variable encoded(const TokenBatch& tokens) const;
  /// The place of each sample's end-of-text token.
  Tensor ends_of_text(const TokenBatch& tokens) const;

  TextConfig config_;
  Embedding token_embedding_, positions_;
  TransformerEncoder encoder_;
  LayerNorm final_norm_;
};

struct ClipConfig {
  VisionConfig vision = {};
  TextConfig text = {};
  std::int64_t projection_width = 512;
  double initial_temperature = 0.07;

  /// Returns the config. Throws ValueError for a projection width below 1, a temperature that is not above 0 and
  /// finite, and as that of each tower.
  const ClipConfig& checked() const;
};

/// CLIP (Radford et al. 2021): two towers and their projections into one space. Parameters are named as in a Hugging
/// Face checkpoint (`vision_model.…`, `text_model.…`, `visual_projection.weight`, `text_projection.weight`,
/// `logit_scale`) and initialised as each part says; projections by N(0, 1/width), logit_scale by log(1/temperature).
class Clip : public Model {
 public:
  /// Throws as the config's `checked`, before the first parameter is made.
  Clip(const ClipConfig& config, std::uint64_t seed, DType dtype = DType::kFloat32)
      : Clip(Builder(seed, dtype), config) {}
  /// The same under the name of a builder, whose list other parts may share.
  Clip(const Builder& builder, const ClipConfig& config);

  /// images [batch, channels, size, size] to representations [batch, projection_width], of length 1 unless `normalize`
  /// is false.
  Variable encode_image(const Variable& images, bool normalize = true) const;
  /// The same of tokens.
  Variable encode_text(const TokenBatch& tokens, bool normalize = true) const;

  /// Logarithm of the factor that similarities are scaled by, a scalar.
  const Parameter& logit_scale() const { return logit_scale_; }
  const VisionTransformer& vision() const { return vision_; }
  const TextTransformer& text() const { return text_; }

 private:
  VisionTransformer vision_;
  TextTransformer text_;
  Linear visual_projection_, text_projection_;
  Parameter logit_scale_;
};

}  // namespace tapecache::models
