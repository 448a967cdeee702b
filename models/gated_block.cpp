#include "tapecache/models/gated_block.h"

#include <array>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/function.h"
#include "tapecache/models/activation_names.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::models::detail {

namespace {

constexpr Init kInit = Init::normal(0.02);

std::vector<std::int64_t> widths_of_qkv(const GatedBlockConfig& config) {
  const std::int64_t of_keys = config.kv_heads * config.head_width;
  return {config.heads * config.head_width, of_keys, of_keys};
}

std::optional<BlockNorm> norm_if(bool wanted, const Builder& builder, std::int64_t width, double epsilon,
                                 BlockNorm::Kind kind) {
  return wanted ? std::optional<BlockNorm>(std::in_place, builder, width, epsilon, kind) : std::nullopt;
}

}  // namespace

Projections::Projections(const Builder& builder, const std::vector<const char*>& names, std::int64_t in,
                         const std::vector<std::int64_t>& outputs, bool with_bias) {
  const std::int64_t all = std::reduce(outputs.begin(), outputs.end());
  for (std::size_t i = 0; i < names.size(); ++i) {
    layers_.emplace_back(builder.child(names[i]), in, names.size() == 1 ? all : outputs[i], kInit, with_bias);
  }
}

LinearRow Projections::row() const {
  std::vector<const Linear*> all;
  for (const Linear& layer : layers_) all.push_back(&layer);
  return LinearRow(std::move(all));
}

BlockNorm::BlockNorm(const Builder& builder, std::int64_t width, double epsilon, Kind kind)
    : kind_(kind), epsilon_(epsilon), weight_(builder.parameter("weight", {width}, Init::constant(1))) {
  if (kind == Kind::kLayerWithBias) bias_ = builder.parameter("bias", {width}, Init::constant(0));
  weight_.set("epsilon", fmt::to_string(epsilon));
}

Variable BlockNorm::bias_or_zeros() const {
  if (bias_.defined()) return bias_;
  const Tensor& weight = weight_.value();
  return Tensor::zeros(weight.shape(), weight.dtype(), weight.device());
}

Variable BlockNorm::operator()(const Variable& x) const {
  if (kind_ == Kind::kRootMeanSquare) return ops::rms_norm(x, weight_, epsilon_);
  return ops::layer_norm(x, weight_, bias_or_zeros(), epsilon_);
}

Variable BlockNorm::project(const Variable& x, const Projections& to, ops::ResultType result) const {
  if (kind_ == Kind::kRootMeanSquare) return to.row()((*this)(x), result);
  return to.row().after(ops::Norm{weight_, bias_or_zeros(), epsilon_}, x, ops::KeepNorm::kNo, result).y;
}

GatedBlock::GatedBlock(const Builder& builder, const GatedBlockConfig& config, const GatedBlockStyle& style,
                       const BlockPositions& positions, bool has_first_norm)
    : config_(config),
      causal_(style.causal),
      positions_(positions),
      norm1_(norm_if(has_first_norm, builder.child(style.norm1), config.width, config.epsilon, style.norm)),
      qkv_(builder, style.qkv, config.width, widths_of_qkv(config), config.qkv_bias),
      query_norm_(norm_if(config.head_norms, builder.child("self_attn.q_norm"), config.head_width, config.epsilon,
                          BlockNorm::Kind::kRootMeanSquare)),
      key_norm_(norm_if(config.head_norms, builder.child("self_attn.k_norm"), config.head_width, config.epsilon,
                        BlockNorm::Kind::kRootMeanSquare)),
      out_(builder.child(style.out), config.heads * config.head_width, config.width, kInit, config.out_bias),
      norm2_(builder.child(style.norm2), config.width, config.epsilon, style.norm),
      gate_(builder, style.gate, config.width, {config.mlp_width, config.mlp_width}, config.mlp_bias),
      down_(builder.child(style.down), config.mlp_width, config.width, kInit, config.mlp_bias),
      attention_dropout_(builder, config.attention_dropout),
      hidden_dropout_(builder, config.hidden_dropout) {
  qkv_.set("heads", fmt::to_string(config.heads));
  qkv_.set("causal", causal_ ? "true" : "false");
  qkv_.set("positions", positions.rope.name());
  qkv_.set("window", positions.window ? fmt::to_string(*positions.window) : "none");
  gate_.set("activation", std::string(name_of(config.activation)));
}

Variable GatedBlock::normed_heads(const Variable& qkv) const {
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1), width = config_.head_width;
  const auto normed = [&](const BlockNorm& norm, std::int64_t first, std::int64_t heads) {
    const Variable part = ops::slice(qkv, 2, first * width, (first + heads) * width);
    const Variable by_head = norm(ops::reshape(part, {batch, tokens, heads, width}));
    return ops::reshape(by_head, {batch, tokens, heads * width});
  };
  const std::int64_t heads = config_.heads, kv_heads = config_.kv_heads;
  const std::array<Variable, 3> parts{normed(*query_norm_, 0, heads), normed(*key_norm_, heads, kv_heads),
                                      ops::slice(qkv, 2, (heads + kv_heads) * width, (heads + 2 * kv_heads) * width)};
  return ops::concat(std::span<const Variable>(parts), 2);
}

Variable GatedBlock::forward(const Variable& x, const Tensor& valid, bool training) const {
  using ops::ResultType;
  // What is normed or dropped is of the type that is computed with; what a product alone reads, of its operands'.
  const auto projected = config_.head_norms ? ResultType::kComputed : ResultType::kOperand;
  Variable qkv = norm1_ ? norm1_->project(x, qkv_, projected) : qkv_.row()(x, projected);
  if (config_.head_norms) qkv = normed_heads(qkv);
  const Tensor angles = positions_.rope.table(x.size(1), x.dtype(), x.device());
  ops::AttentionOptions options{.causal = causal_, .valid = valid, .result = out_.reads()};
  options.kv_heads = config_.kv_heads;
  options.window = positions_.window;
  const Variable attended =
      ops::attention(ops::rope(qkv, config_.heads + config_.kv_heads, angles), config_.heads, options);
  const Variable sum = attention_dropout_.active(training) ? ops::add(x, attention_dropout_(out_(attended), training))
                                                           : out_(attended, x);
  const bool drops = hidden_dropout_.active(training);
  const Variable halves = norm2_.project(sum, gate_, drops ? ResultType::kComputed : down_.reads());
  const Variable hidden = ops::gated(config_.activation, halves);
  return down_(drops ? hidden_dropout_(hidden, training) : hidden, sum);
}

Variable GatedBlock::operator()(const Variable& x, const Tensor& valid) const {
  const bool training = attention_dropout_.training();
  if (!config_.checkpoint) return forward(x, valid, training);
  // By value: the recompute in backward may come when this block is gone, or the training flag was changed.
  const auto recompute = [block = *this, valid, training](std::span<const Variable> inputs) {
    const auto as_then = block.attention_dropout_.training_as(training);
    return std::vector<Variable>{block.forward(inputs[0], valid, training)};
  };
  std::vector<Variable> inputs{x};
  if (valid.defined()) inputs.emplace_back(valid);  // so that a change before backward is found
  return checkpoint(recompute, inputs).front();
}

GatedEncoder::GatedEncoder(const Builder& builder, const GatedBlockConfig& config, const GatedBlockStyle& style,
                           const std::vector<BlockPositions>& positions, const char* final_norm)
    : norm_(builder.child(final_norm), config.width, config.epsilon, style.norm) {
  for (std::size_t i = 0; i < positions.size(); ++i) {
    blocks_.emplace_back(builder.child("layers").child(std::to_string(i)), config, style, positions[i],
                         i > 0 || style.first_norm);
  }
}

Variable GatedEncoder::operator()(Variable x, const Tensor& valid) const {
  for (const GatedBlock& block : blocks_) x = block(x, valid);
  return norm_(x);
}

}  // namespace tapecache::models::detail
