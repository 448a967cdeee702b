#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tapecache/models/attention.h"
#include "tapecache/models/transformer_config.h"

namespace tapecache::models {

enum class NormPlacement {
  kPre,   ///< x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al. 2020)
  kPost,  ///< norm(x + attention(x)), then norm(x + mlp(x)) (Vaswani et al. 2017)
};

/// Where a block has its norms, what its parts are called and how their weights are drawn.
struct BlockStyle {
  const char* name = "transformer";  ///< for messages
  NormPlacement norm = NormPlacement::kPre;
  AttentionNames attention = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"};
  const char *norm1 = "layer_norm1", *norm2 = "layer_norm2", *fc1 = "mlp.fc1", *fc2 = "mlp.fc2";
  ops::ResultType projected = ops::ResultType::kOperand;  ///< of queries, keys and values; kComputed for biased scores
  /// Of all weights. Unset: with w the width and L the layers, q, k, v and fc2 by N(0, (w^-½ (2L)^-½)²), out_proj by
  /// N(0, w^-1), fc1 by N(0, (2w)^-1).
  std::optional<Init> weights = {};
  bool in_bias = true;  ///< whether queries, keys and values have biases
  /// Factors of each feature of the branches (LayerScale, Touvron et al. 2021), 1 at first; null: there are none.
  const char *scale1 = nullptr, *scale2 = nullptr;
  /// The perceptron multiplies the activation of its hidden features, mlp_width, by as many others (Shazeer 2020),
  /// which fc1 makes too, behind them.
  bool gated = false;
};

/// A Hugging Face CLIP encoder layer, initialised as there (`CLIPPreTrainedModel._init_weights`). OpenAI's own code
/// draws q, k, v and out_proj the other way round.
inline constexpr BlockStyle kClipBlock = {};

/// A Hugging Face BERT layer.
inline constexpr BlockStyle kBertBlock = {
    .name = "bert block",
    .norm = NormPlacement::kPost,
    .attention = {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"},
    .norm1 = "attention.output.LayerNorm",
    .norm2 = "output.LayerNorm",
    .fc1 = "intermediate.dense",
    .fc2 = "output.dense",
    .weights = Init::normal(0.02)};

/// Transformer block over [batch, tokens, width]: attention and a two-layer perceptron, each with a residual branch of
/// which dropout and drop path take parts in training. Biases are 0 at first.
class TransformerBlock {
 public:
  /// Throws as `check_config`.
  TransformerBlock(const Builder& builder, const TransformerConfig& config, const BlockStyle& style = kClipBlock);
  /// Of the chosen tokens alone where `choice` is set: what follows the attention works on each token by itself, so the
  /// last block of a stack need not compute what is not pooled.
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {},
                      const TokenChoice& choice = {}) const;

 private:
  friend class TransformerEncoder;

  Variable without_last_norm(const Variable& x, const LayerNorm* before, const ops::AttentionOptions& options,
                             const TokenChoice& choice) const;
  Variable forward(const Variable& x, const LayerNorm* before, const ops::AttentionOptions& options,
                   const TokenChoice& choice, bool training) const;
  /// x plus branch({}), which is scaled or of which training takes parts, or branch(x), which adds x itself.
  template <class Branch>
  Variable add_branch(const Variable& x, const Parameter& scale, bool training, const Branch& branch) const;
  Variable project_hidden(const Variable& hidden, const Variable& residual) const;
  /// The norm that the block ends with; null where that is no part of it.
  const LayerNorm* last_norm() const { return norm_ == NormPlacement::kPost ? &parts_.norm2 : nullptr; }

  struct Parts {
    LayerNorm norm1;
    MultiHeadAttention attention;
    LayerNorm norm2;
    Linear fc1, fc2;
    Parameter scale1 = {}, scale2 = {};  // undefined where there are none
  };
  static Parts make_parts(const Builder& builder, const TransformerConfig& config, const BlockStyle& style);

  NormPlacement norm_;
  Activation activation_;
  bool gated_, checkpoint_;
  Parts parts_;
  Dropout dropout_;
  DropPath drop_path_;
};

/// Blocks of one style, one after another: `layers.0`, `layers.1`, … unless `layers` names them otherwise.
class TransformerEncoder {
 public:
  /// Throws as `check_config`.
  TransformerEncoder(const Builder& builder, const TransformerConfig& config, const BlockStyle& style = kClipBlock,
                     const char* layers = "layers");
  /// [batch, tokens, width], or [batch, width] where `choice` is set. `before` is a norm that x still is to be given,
  /// which a first block of the post-norm kind joins to its products, so that no norm is kept.
  Variable operator()(Variable x, const ops::AttentionOptions& options = {}, const TokenChoice& choice = {},
                      const LayerNorm* before = nullptr) const;

 private:
  std::vector<TransformerBlock> blocks_;
};

}  // namespace tapecache::models
