#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tapecache/models/layers.h"
#include "tapecache/models/linear_row.h"
#include "tapecache/models/rope_tables.h"
#include "tapecache/ops/attention.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// Linear maps of one x, whose results are side by side.
class Projections {
 public:
  /// One map for each name, or one under a single name of all outputs.
  Projections(const Builder& builder, const std::vector<const char*>& names, std::int64_t in,
              const std::vector<std::int64_t>& outputs, bool with_bias);
  LinearRow row() const;
  /// Writes a setting beside the first map's weight.
  void set(const std::string& name, const std::string& value) const { layers_.front().weight.set(name, value); }

 private:
  std::vector<Linear> layers_;
};

/// A layer norm, whose bias may be left out, or a root mean square norm, which has none.
class BlockNorm {
 public:
  enum class Kind { kLayer, kLayerWithBias, kRootMeanSquare };

  BlockNorm(const Builder& builder, std::int64_t width, double epsilon, Kind kind);
  Variable operator()(const Variable& x) const;
  /// The projections of the norm.
  Variable project(const Variable& x, const Projections& projections, ops::ResultType result) const;

 private:
  Variable bias_or_zeros() const;

  Kind kind_;
  double epsilon_;
  Parameter weight_, bias_;
};

/// What blocks with rotary position embedding and a gated perceptron differ in.
struct GatedBlockStyle {
  std::vector<const char*> qkv;   ///< the projections of queries, keys and values, or one of them all
  std::vector<const char*> gate;  ///< the activated half of the hidden layer and the other, or one of both
  const char *norm1, *out, *norm2, *down;
  BlockNorm::Kind norm = BlockNorm::Kind::kLayer;
  bool causal = false;
  bool first_norm = true;  ///< whether the first block norms what enters its attention
};

struct GatedBlockConfig {
  std::int64_t width = 0, layers = 0, heads = 0, kv_heads = 0, head_width = 0, mlp_width = 0;
  ops::Activation activation = ops::Activation::kGelu;
  double epsilon = 1e-5;
  bool qkv_bias = false, out_bias = false, mlp_bias = false;
  bool head_norms = false;                           ///< of each head of queries and of keys: q_norm and k_norm
  double attention_dropout = 0, hidden_dropout = 0;  ///< of what attention adds, and of the hidden layer
  bool checkpoint = false;  ///< keep only each block's input and compute the block again in backward
};

/// How one block looks at positions.
struct BlockPositions {
  RopeTables rope;
  std::optional<std::int64_t> window = {};
};

/// x + attention(norm(x)), then x + down(activation(gate(norm(x))) · up(norm(x))).
class GatedBlock {
 public:
  GatedBlock(const Builder& builder, const GatedBlockConfig& config, const GatedBlockStyle& style,
             const BlockPositions& positions, bool has_first_norm);
  /// x [batch, tokens, width].
  Variable operator()(const Variable& x, const Tensor& valid) const;

 private:
  Variable forward(const Variable& x, const Tensor& valid, bool training) const;
  Variable normed_heads(const Variable& qkv) const;

  GatedBlockConfig config_;
  bool causal_;
  BlockPositions positions_;
  std::optional<BlockNorm> norm1_;
  Projections qkv_;
  std::optional<BlockNorm> query_norm_, key_norm_;
  Linear out_;
  BlockNorm norm2_;
  Projections gate_;
  Linear down_;
  Dropout attention_dropout_, hidden_dropout_;
};

/// Blocks one after another: `layers.0`, `layers.1`, …, each with its positions, and a norm after the last.
class GatedEncoder {
 public:
  GatedEncoder(const Builder& builder, const GatedBlockConfig& config, const GatedBlockStyle& style,
               const std::vector<BlockPositions>& positions, const char* final_norm);
  /// [batch, tokens, width].
  Variable operator()(Variable x, const Tensor& valid) const;

 private:
  std::vector<GatedBlock> blocks_;
  BlockNorm norm_;
};

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
