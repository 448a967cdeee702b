#include "tapecache/models/transformer_block.h"

#include <cmath>

#include "tapecache/autograd/checkpoint.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::models {

namespace {

double width_scale(const TransformerConfig& c) { return 1.0 / std::sqrt(static_cast<double>(c.width)); }
Init residual_init(const TransformerConfig& c) {
  return Init::normal(width_scale(c) / std::sqrt(2.0 * static_cast<double>(c.layers)));
}

}  // namespace

TransformerBlock::TransformerBlock(const Builder& builder, const TransformerConfig& config)
    : activation_(check_config("transformer", config).activation),
      checkpoint_(config.checkpoint),
      norm1_(builder.child("layer_norm1"), config.width, config.epsilon),
      attention_(builder.child("self_attn"), config.width, config.heads, residual_init(config),
                 Init::normal(width_scale(config))),
      norm2_(builder.child("layer_norm2"), config.width, config.epsilon),
      fc1_(builder.child("mlp").child("fc1"), config.width, config.mlp_width,
           Init::normal(width_scale(config) / std::sqrt(2.0))),
      fc2_(builder.child("mlp").child("fc2"), config.mlp_width, config.width, residual_init(config)),
      dropout_(builder, config.dropout),
      drop_path_(builder, config.drop_path) {
  norm1_.weight.set("norm", "before the branch");
  fc1_.weight.set("activation", std::string(name(activation_)));
}

Variable TransformerBlock::forward(const Variable& x, const ops::AttentionOptions& options,
                                   const TokenChoice& choice) const {
  constexpr auto kNoNorm = ops::KeepNorm::kNo;
  const Variable qkv = attention_.project(norm1_, x, kNoNorm).y, chosen = choice ? choice(x) : x;
  if (dropout_.active() || drop_path_.active()) {
    const Variable attended = ops::add(chosen, drop_path_(dropout_(attention_.attend(qkv, options, {}, choice))));
    return ops::add(attended, drop_path_(dropout_(fc2_.after(activation_, fc1_.after(norm2_, attended, kNoNorm).y))));
  }
  const Variable attended = attention_.attend(qkv, options, chosen, choice);
  return fc2_.after(activation_, fc1_.after(norm2_, attended, kNoNorm).y, attended);
}

Variable TransformerBlock::operator()(const Variable& x, const ops::AttentionOptions& options,
                                      const TokenChoice& choice) const {
  if (!checkpoint_) return forward(x, options, choice);
  // By value: the recompute in backward may come when this block's caller is gone, or the training flag was changed.
  const auto recompute = [block = as_now(), options, choice](std::span<const Variable> inputs) {
    return std::vector<Variable>{block.forward(inputs[0], options, choice)};
  };
  std::vector<Variable> inputs{x};
  if (options.valid.defined()) inputs.emplace_back(options.valid);  // so that a change before backward is found
  return checkpoint(recompute, inputs).front();
}

TransformerBlock TransformerBlock::as_now() const {
  TransformerBlock copy = *this;
  copy.dropout_ = dropout_.as_now();
  copy.drop_path_ = drop_path_.as_now();
  return copy;
}

TransformerEncoder::TransformerEncoder(const Builder& builder, const TransformerConfig& config) {
  check_config("transformer", config);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    blocks_.emplace_back(builder.child("layers").child(std::to_string(i)), config);
  }
}

Variable TransformerEncoder::operator()(Variable x, const ops::AttentionOptions& options,
                                        const TokenChoice& choice) const {
  for (const TransformerBlock& block : blocks_) x = block(x, options, &block == &blocks_.back() ? choice : TokenChoice());
  return x;
}

}  // namespace tapecache::models
