#pragma once

#include <cstdint>

#include "tapecache/models/token_batch.h"
#include "tapecache/models/transformer_block.h"

namespace tapecache::models {

enum class TextPooling { kLastToken, kMean };

struct TextConfig {
  std::int64_t vocabulary = 49408;
  std::int64_t max_tokens = 77;
  bool causal = true;
  TextPooling pooling = TextPooling::kLastToken;
  TransformerConfig encoder = {};
};

/// Throws ValueError for sizes below 1 and as that of the encoder; gives the config back.
const TextConfig& check_config(const TextConfig& config);

/// CLIP's text tower (Radford et al. 2021), with parameter names as in a Hugging Face CLIP checkpoint's `text_model`.
/// Token embedding by N(0, 0.02²), positions by N(0, 0.01²), as OpenAI's.
class TextTransformer {
 public:
  /// Throws as `check_config`.
  TextTransformer(const Builder& builder, const TextConfig& config);
  /// [batch, width], pooled over the valid tokens. Throws ShapeError for more than max_tokens or a mask of another
  /// shape, DTypeError for ids or a mask of another type, ValueError for an id outside the vocabulary or a sample
  /// without a valid token.
  Variable operator()(const TokenBatch& tokens) const;
  /// [batch, tokens, width]: each token's state after the last norm, not pooled. Throws as above.
  Variable hidden_states(const TokenBatch& tokens) const;

 private:
  Variable embed(const TokenBatch& tokens) const;

  TextConfig config_;
  Embedding token_embedding_, positions_;
  TransformerEncoder encoder_;
  LayerNorm final_norm_;
};

}  // namespace tapecache::models
