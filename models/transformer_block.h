#pragma once

#include <cstdint>
#include <vector>

#include "tapecache/models/attention.h"
#include "tapecache/models/transformer_config.h"

namespace tapecache::models {

/// Pre-norm transformer block (Xiong et al. 2020): x + attention(norm(x)), then x + mlp(norm(x)), over
/// [batch, tokens, width], with names as in a Hugging Face CLIP encoder layer. Initialised as there
/// (`CLIPPreTrainedModel._init_weights`): with w the width and L the layers, q, k, v and fc2 by N(0, (w^-½ (2L)^-½)²),
/// out_proj by N(0, w^-1), fc1 by N(0, (2w)^-1), biases 0. OpenAI's own code draws q, k, v and out_proj the other way
/// round.
class TransformerBlock {
 public:
  /// Throws as `check_config`.
  TransformerBlock(const Builder& builder, const TransformerConfig& config);
  /// Of the chosen tokens alone where `choice` is set: what follows the attention works on each token by itself, so the
  /// last block of a stack need not compute what is not pooled.
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {}, const TokenChoice& choice = {}) const;

 private:
  Variable forward(const Variable& x, const ops::AttentionOptions& options, const TokenChoice& choice) const;
  TransformerBlock as_now() const;

  Activation activation_;
  bool checkpoint_;
  LayerNorm norm1_;
  MultiHeadAttention attention_;
  LayerNorm norm2_;
  Linear fc1_, fc2_;
  Dropout dropout_;
  DropPath drop_path_;
};

/// The blocks `layers.0`, `layers.1`, … one after another.
class TransformerEncoder {
 public:
  /// Throws as `check_config`.
  TransformerEncoder(const Builder& builder, const TransformerConfig& config);
  /// [batch, tokens, width], or [batch, width] where `choice` is set.
  Variable operator()(Variable x, const ops::AttentionOptions& options = {}, const TokenChoice& choice = {}) const;

 private:
  std::vector<TransformerBlock> blocks_;
};

}  // namespace tapecache::models
