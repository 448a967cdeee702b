#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "tapecache/models/layers.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/linear.h"

namespace tapecache::models {

/// A stack of transformer blocks. What an initialiser leaves out is as the architecture has it, whichever members it
/// names; so each architecture has a type of its own, and one becomes another by an explicit conversion alone.
template <class Architecture>
struct TransformerConfigOf {
  std::int64_t width = Architecture::kWidth;
  std::int64_t layers =
      Architecture::kLayers;  ///< of the whole stack; sets the scale of residual projections in CLIP's blocks
  std::int64_t heads = Architecture::kHeads;
  std::int64_t mlp_width = Architecture::kMlpWidth;
  ops::Activation activation = Architecture::kActivation;
  double dropout = 0;  ///< of both residual branches
  /// Of both residual branches, for each sample as a whole, after dropout (stochastic depth, Huang et al. 2016). The
  /// same in every block: for a rate that grows with depth give each block a config of its own.
  double drop_path = 0;
  double epsilon = Architecture::kEpsilon;  ///< of the layer norms
  bool checkpoint = false;                  ///< keep only each block's input and compute the block again in backward

  /// Every member as it is here.
  template <class Other>
  requires(!std::same_as<Other, Architecture>) explicit operator TransformerConfigOf<Other>() const {
    return {width, layers, heads, mlp_width, activation, dropout, drop_path, epsilon, checkpoint};
  }
};

struct ClipTextArchitecture {
  static constexpr std::int64_t kWidth = 512, kLayers = 12, kHeads = 8, kMlpWidth = 2048;
  static constexpr ops::Activation kActivation = ops::Activation::kQuickGelu;
  static constexpr double kEpsilon = 1e-5;
};

struct ClipVisionArchitecture : ClipTextArchitecture {
  static constexpr std::int64_t kWidth = 768, kHeads = 12, kMlpWidth = 3072;
};

/// MiniLM-L6 (Wang et al. 2020).
struct BertArchitecture {
  static constexpr std::int64_t kWidth = 384, kLayers = 6, kHeads = 12, kMlpWidth = 1536;
  static constexpr ops::Activation kActivation = ops::Activation::kGelu;
  static constexpr double kEpsilon = 1e-12;
};

/// Of pre-norm blocks.
using TransformerConfig = TransformerConfigOf<ClipTextArchitecture>;
using VisionEncoderConfig = TransformerConfigOf<ClipVisionArchitecture>;
using BertEncoderConfig = TransformerConfigOf<BertArchitecture>;

namespace detail {
void check_transformer(const char* model, const TransformerConfig& config);
}

/// Throws ValueError, in the name of `model`, for sizes below 1, heads that do not divide the width, a `dropout` or
/// `drop_path` outside [0, 1) and an `epsilon` that is not above 0 and finite; gives the config back.
template <class Architecture>
const TransformerConfigOf<Architecture>& check_config(const char* model,
                                                      const TransformerConfigOf<Architecture>& config) {
  detail::check_transformer(model, TransformerConfig(config));
  return config;
}

/// What the projections of a MultiHeadAttention are called; as in a Hugging Face CLIP layer unless given.
struct AttentionNames {
  const char *query = "q_proj", *key = "k_proj", *value = "v_proj", *out = "out_proj";
};

/// Picks one token of each sample: x [batch, tokens, width] to [batch, width], as `ops::cls_pool` does.
using TokenChoice = std::function<Variable(const Variable& x)>;

/// Multi-head self-attention [batch, tokens, width], plus the residual where there is one.
class MultiHeadAttention {
 public:
  /// `in` and `out` initialise the input and output projections. Throws ValueError where heads do not divide width.
  /// Queries, keys and values are `projected` to that type, and have biases unless `in_bias` is false.
  MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in, const Init& out,
                     const AttentionNames& names = {}, ops::ResultType projected = ops::ResultType::kOperand,
                     bool in_bias = true);
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {},
                      const Variable& residual = {}) const;
  /// Its first half: queries, keys and values side by side, of x or of norm(x), which backward computes again. They are
  /// of the type that a product takes.
  Variable project(const Variable& x) const;
  ops::NormalizedLinear project(const LayerNorm& norm, const Variable& x, ops::KeepNorm) const;
  /// Its second half, from those; where `choice` is set, the output projection is of the chosen tokens alone.
  Variable attend(const Variable& qkv, const ops::AttentionOptions& options = {}, const Variable& residual = {},
                  const TokenChoice& choice = {}) const;

 private:
  LinearRow qkv() const { return LinearRow({&q_, &k_, &v_}); }

  std::int64_t heads_;
  ops::ResultType projected_;
  Linear q_, k_, v_, out_;
};

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
