#include "tapecache/models/transformer_block.h"

#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "tapecache/autograd/function.h"
#include "tapecache/models/activation_names.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"

namespace tapecache::models {

/// Parameters are listed in the order in which the block uses them.
TransformerBlock::Parts TransformerBlock::make_parts(const Builder& builder, const TransformerConfig& config,
                                                     const BlockStyle& style) {
  const double spread = 1.0 / std::sqrt(static_cast<double>(config.width));
  const double residual_spread = spread / std::sqrt(2.0 * static_cast<double>(config.layers));
  const auto drawn = [&](double deviation) { return style.weights.value_or(Init::normal(deviation)); };
  const auto norm = [&](const char* name) { return LayerNorm(builder.child(name), config.width, config.epsilon); };
  const auto attention = [&] {
    return MultiHeadAttention(builder, config.width, config.heads, drawn(residual_spread), drawn(spread),
                              style.attention, style.projected, style.in_bias);
  };
  const auto fc1 = [&] {
    return Linear(builder.child(style.fc1), config.width, (style.gated ? 2 : 1) * config.mlp_width,
                  drawn(spread / std::sqrt(2.0)));
  };
  const auto fc2 = [&] {
    return Linear(builder.child(style.fc2), config.mlp_width, config.width, drawn(residual_spread));
  };
  const auto scale = [&](const char* name) {
    return name ? builder.parameter(name, {config.width}, Init::constant(1)) : Parameter();
  };
  if (style.norm == BlockStyle::Norm::kPre) {
    return {norm(style.norm1), attention(), norm(style.norm2), fc1(), fc2(), scale(style.scale1), scale(style.scale2)};
  }
  const MultiHeadAttention attention_first = attention();
  const LayerNorm norm1 = norm(style.norm1);
  const Linear linear1 = fc1(), linear2 = fc2();
  return {norm1, attention_first, norm(style.norm2), linear1, linear2, scale(style.scale1), scale(style.scale2)};
}

TransformerBlock::TransformerBlock(const Builder& builder, const TransformerConfig& config, const BlockStyle& style)
    : norm_(style.norm),
      activation_(config.checked(style.name).activation),
      gated_(style.gated),
      checkpoint_(config.checkpoint),
      parts_(make_parts(builder, config, style)),
      dropout_(builder, config.dropout),
      drop_path_(builder, config.drop_path) {
  parts_.norm1.weight.set("norm", norm_ == BlockStyle::Norm::kPre ? "before the branch" : "after the branch");
  parts_.fc1.weight.set("activation", std::string(detail::name_of(activation_)));
}

template <class Branch>
Variable TransformerBlock::add_branch(const Variable& x, const Parameter& scale, bool training,
                                      const Branch& branch) const {
  if (!scale.defined() && !dropout_.active(training) && !drop_path_.active(training)) return branch(x);
  const Variable y = branch(Variable());
  return ops::add(x, drop_path_(dropout_(scale.defined() ? ops::multiply(y, scale) : y, training), training));
}

Variable TransformerBlock::project_hidden(const Variable& hidden, const Variable& residual) const {
  if (!gated_) return parts_.fc2.after(activation_, hidden, residual);
  return parts_.fc2(ops::gated(activation_, hidden), residual);
}

/// In both kinds a norm comes before each branch. A pre-norm block adds the branch to the input of its norm, a
/// post-norm block to the output. The first norm of a post-norm block is the last one of the block before it, passed as
/// `before`.
Variable TransformerBlock::forward(const Variable& x, const LayerNorm* before, const ops::AttentionOptions& options,
                                   const TokenChoice& choice, bool training) const {
  // The lambdas below capture these by name, since clang before 16 cannot capture a structured binding otherwise.
  const auto& [norm1, attention, norm2, fc1, fc2, scale1, scale2] = parts_;
  const bool post = norm_ == BlockStyle::Norm::kPost;
  const auto keep = post ? ops::KeepNorm::kYes : ops::KeepNorm::kNo;
  const LayerNorm* const first = post ? before : &norm1;
  const auto [qkv, entering] =
      first ? attention.project(*first, x, keep) : ops::NormalizedLinear{attention.project(x), x};
  const Variable& stream = post ? entering : x;
  const Variable attended = add_branch(choice ? choice(stream) : stream, scale1, training,
                                       [&, &attention = attention, &qkv = qkv](const Variable& residual) {
                                         return attention.attend(qkv, options, residual, choice);
                                       });
  const auto [hidden, normalized] = fc1.after(post ? norm1 : norm2, attended, keep, fc2.reads());
  return add_branch(post ? normalized : attended, scale2, training,
                    [&, &hidden = hidden](const Variable& residual) { return project_hidden(hidden, residual); });
}

Variable TransformerBlock::without_last_norm(const Variable& x, const LayerNorm* before,
                                             const ops::AttentionOptions& options, const TokenChoice& choice) const {
  const bool training = dropout_.training();
  if (!checkpoint_) return forward(x, before, options, choice, training);
  // Captured by value: backward may recompute after this block's owner is gone or the training flag has changed.
  const auto recompute = [block = *this, norm = before ? std::optional(*before) : std::nullopt, options, choice,
                          training](std::span<const Variable> inputs) {
    ops::AttentionOptions how = options;
    if (how.bias.defined()) how.bias = inputs[1];
    const auto as_then = block.dropout_.training_as(training);
    return std::vector<Variable>{block.forward(inputs[0], norm ? &*norm : nullptr, how, choice, training)};
  };
  std::vector<Variable> inputs{x};
  if (options.bias.defined()) inputs.push_back(options.bias);
  if (options.valid.defined()) inputs.emplace_back(options.valid);  // so that changing it before backward throws
  return checkpoint(recompute, inputs).front();
}

Variable TransformerBlock::operator()(const Variable& x, const ops::AttentionOptions& options,
                                      const TokenChoice& choice) const {
  const Variable y = without_last_norm(x, nullptr, options, choice);
  return last_norm() ? (*last_norm())(y) : y;
}

TransformerEncoder::TransformerEncoder(const Builder& builder, const TransformerConfig& config, const BlockStyle& style,
                                       const char* layers) {
  config.checked(style.name);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    blocks_.emplace_back(builder.child(layers).child(std::to_string(i)), config, style);
  }
}

Variable TransformerEncoder::operator()(Variable x, const ops::AttentionOptions& options, const TokenChoice& choice,
                                        const LayerNorm* before) const {
  if (before && !blocks_.front().last_norm())
    x = (*std::exchange(before, nullptr))(x);  // of blocks with a first norm of their own
  for (const TransformerBlock& block : blocks_) {
    x = block.without_last_norm(x, before, options, &block == &blocks_.back() ? choice : TokenChoice());
    before = block.last_norm();
  }
  return before ? (*before)(x) : x;
}

}  // namespace tapecache::models
