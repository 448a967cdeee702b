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

namespace detail {

void check_transformer(const char* model, std::int64_t width, std::int64_t layers, std::int64_t heads,
                       std::int64_t mlp_width, double dropout, double drop_path, double epsilon);

/// The sizes of a stack of transformer blocks. Each architecture has a type of its own, so that an initialiser which
/// names some members gets the others as that architecture has them. One type becomes another by an explicit conversion
/// alone.
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

  /// Returns the config. Throws ValueError, in the name of `model`, for sizes below 1, heads that do not divide the
  /// width, a `dropout` or `drop_path` outside [0, 1), and an `epsilon` that is not above 0 and finite.
  const TransformerConfigOf& checked(const char* model) const {
    check_transformer(model, width, layers, heads, mlp_width, dropout, drop_path, epsilon);
    return *this;
  }

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

}  // namespace detail

/// The sizes of pre-norm blocks as in CLIP's text tower.
using TransformerConfig = detail::TransformerConfigOf<detail::ClipTextArchitecture>;
/// The same as in CLIP's vision tower.
using VisionEncoderConfig = detail::TransformerConfigOf<detail::ClipVisionArchitecture>;
/// The sizes of post-norm blocks as in MiniLM.
using BertEncoderConfig = detail::TransformerConfigOf<detail::BertArchitecture>;

/// Multi-head self-attention of x [batch, tokens, width], plus a residual if one is given.
class MultiHeadAttention {
 public:
  /// Picks one token of each sample: x [batch, tokens, width] to [batch, width], as `ops::cls_pool` does.
  using TokenChoice = std::function<Variable(const Variable& x)>;

  /// What the projections are called; as in a Hugging Face CLIP layer unless given.
  struct Names {
    const char *query = "q_proj", *key = "k_proj", *value = "v_proj", *out = "out_proj";
  };

  /// `in` and `out` initialise the input and output projections. Queries, keys and values have the type `projected`,
  /// and biases unless `in_bias` is false. Throws ValueError if the heads do not divide the width.
  MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in, const Init& out,
                     const Names& names, ops::ResultType projected = ops::ResultType::kOperand, bool in_bias = true);
  MultiHeadAttention(const Builder& builder, std::int64_t width, std::int64_t heads, const Init& in, const Init& out);
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {},
                      const Variable& residual = {}) const;
  /// The first half of attention: queries, keys and values of x or of norm(x), side by side, in the type of a product's
  /// operands. Backward computes norm(x) again.
  Variable project(const Variable& x) const;
  ops::NormalizedLinear project(const LayerNorm& norm, const Variable& x, ops::KeepNorm) const;
  /// The second half, from the result of `project`. With a `choice`, only the chosen tokens are projected to the
  /// output.
  Variable attend(const Variable& qkv, const ops::AttentionOptions& options = {}, const Variable& residual = {},
                  const TokenChoice& choice = {}) const;

 private:
  detail::LinearRow qkv() const;

  std::int64_t heads_;
  ops::ResultType projected_;
  Linear q_, k_, v_, out_;
};

/// Where a block has its norms, what its parts are called and how their weights are drawn.
struct BlockStyle {
  enum class Norm {
    kPre,   ///< x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al. 2020)
    kPost,  ///< norm(x + attention(x)), then norm(x + mlp(x)) (Vaswani et al. 2017)
  };

  const char* name = "transformer";  ///< for messages
  Norm norm = Norm::kPre;
  MultiHeadAttention::Names attention = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                         "self_attn.out_proj"};
  const char *norm1 = "layer_norm1", *norm2 = "layer_norm2", *fc1 = "mlp.fc1", *fc2 = "mlp.fc2";
  /// The type of queries, keys and values; kComputed for biased scores.
  ops::ResultType projected = ops::ResultType::kOperand;
  /// Of all weights. Unset: with w the width and L the layers, q, k, v and fc2 by N(0, (w^-½ (2L)^-½)²), out_proj by
  /// N(0, w^-1), fc1 by N(0, (2w)^-1).
  std::optional<Init> weights = {};
  bool in_bias = true;  ///< whether queries, keys and values have biases
  /// Factors of each feature of the branches (LayerScale, Touvron et al. 2021), 1 at first; null: there are none.
  const char *scale1 = nullptr, *scale2 = nullptr;
  /// The perceptron multiplies the activation of its hidden features, mlp_width, by as many others (Shazeer 2020),
  /// which fc1 makes too, behind them.
  bool gated = false;

  /// A Hugging Face CLIP encoder layer, initialised as there (`CLIPPreTrainedModel._init_weights`). OpenAI's own code
  /// draws q, k, v and out_proj the other way round.
  static constexpr BlockStyle clip() { return {}; }
  /// A Hugging Face BERT layer.
  static constexpr BlockStyle bert() {
    return {
        .name = "bert block",
        .norm = Norm::kPost,
        .attention = {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"},
        .norm1 = "attention.output.LayerNorm",
        .norm2 = "output.LayerNorm",
        .fc1 = "intermediate.dense",
        .fc2 = "output.dense",
        .weights = Init::normal(0.02)};
  }
};

/// Transformer block over [batch, tokens, width]: attention and a two-layer perceptron, each in a residual branch, with
/// dropout and drop path in training. Biases are 0 at first.
class TransformerBlock {
 public:
  using TokenChoice = MultiHeadAttention::TokenChoice;

  /// Throws as `TransformerConfig::checked`.
  TransformerBlock(const Builder& builder, const TransformerConfig& config,
                   const BlockStyle& style = BlockStyle::clip());
  /// With a `choice`, the result is of the chosen tokens alone: all that follows the attention works on each token by
  /// itself, so that the last block of a stack need not compute tokens that are not pooled.
  Variable operator()(const Variable& x, const ops::AttentionOptions& options = {},
                      const TokenChoice& choice = {}) const;

 private:
  friend class TransformerEncoder;

  Variable without_last_norm(const Variable& x, const LayerNorm* before, const ops::AttentionOptions& options,
                             const TokenChoice& choice) const;
  Variable forward(const Variable& x, const LayerNorm* before, const ops::AttentionOptions& options,
                   const TokenChoice& choice, bool training) const;
  /// Returns branch(x), which adds x itself, or, where the branch is scaled or dropped in part, x plus branch({}).
  template <class Branch>
  Variable add_branch(const Variable& x, const Parameter& scale, bool training, const Branch& branch) const;
  Variable project_hidden(const Variable& hidden, const Variable& residual) const;
  /// The norm that the block ends with; null for a pre-norm block.
  const LayerNorm* last_norm() const { return norm_ == BlockStyle::Norm::kPost ? &parts_.norm2 : nullptr; }

  struct Parts {
    LayerNorm norm1;
    MultiHeadAttention attention;
    LayerNorm norm2;
    Linear fc1, fc2;
    Parameter scale1 = {}, scale2 = {};  // undefined where there are none
  };
  static Parts make_parts(const Builder& builder, const TransformerConfig& config, const BlockStyle& style);

  BlockStyle::Norm norm_;
  ops::Activation activation_;
  bool gated_, checkpoint_;
  Parts parts_;
  Dropout dropout_;
  DropPath drop_path_;
};

/// Blocks of one style, one after another: `layers.0`, `layers.1`, … unless `layers` names them otherwise.
class TransformerEncoder {
 public:
  using TokenChoice = MultiHeadAttention::TokenChoice;

  /// Throws as `TransformerConfig::checked`.
  TransformerEncoder(const Builder& builder, const TransformerConfig& config,
                     const BlockStyle& style = BlockStyle::clip(), const char* layers = "layers");
  /// [batch, tokens, width], or [batch, width] with a `choice`. `before` is a norm to be applied to x first; post-norm
  /// blocks fuse it with their first product, so that its output is not kept.
  Variable operator()(Variable x, const ops::AttentionOptions& options = {}, const TokenChoice& choice = {},
                      const LayerNorm* before = nullptr) const;

 private:
  std::vector<TransformerBlock> blocks_;
};

}  // namespace tapecache::models
