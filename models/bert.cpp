#include "tapecache/models/bert.h"

#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tapecache/autograd/checkpoint.h"
#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/pooling.h"

namespace tapecache::models {

namespace {

constexpr Init kInit = Init::normal(0.02);

}  // namespace

const BertConfig& check_config(const BertConfig& config) {
  detail::require_sizes("bert", {{"vocabulary", config.vocabulary},
                                 {"max_tokens", config.max_tokens},
                                 {"types", config.types}});
  if (config.types == 1 && !config.position_offset) {
    throw ValueError("bert: types is 1 without a position_offset, expected one: 2 for RoBERTa and XLM-R, 0 for BERT");
  }
  if (config.position_offset.value_or(0) < 0) {
    throw ValueError(fmt::format("bert: position_offset is {}, expected at least 0", *config.position_offset));
  }
  check_config("bert", config.encoder);
  return config;
}

BertBlock::BertBlock(const Builder& builder, const BertEncoderConfig& config)
    : activation_(check_config("bert block", config).activation),
      checkpoint_(config.checkpoint),
      attention_(builder.child("attention"), config.width, config.heads, kInit, kInit,
                 {"self.query", "self.key", "self.value", "output.dense"}),
      norm1_(builder.child("attention.output.LayerNorm"), config.width, config.epsilon),
      intermediate_(builder.child("intermediate.dense"), config.width, config.mlp_width, kInit),
      output_(builder.child("output.dense"), config.mlp_width, config.width, kInit),
      norm2_(builder.child("output.LayerNorm"), config.width, config.epsilon),
      dropout_(builder, config.dropout),
      drop_path_(builder, config.drop_path) {
  norm1_.weight.set("norm", "after the branch");
  intermediate_.weight.set("activation", std::string(name(activation_)));
}

Variable BertBlock::forward(const Variable& x, const LayerNorm* before, const ops::AttentionOptions& options) const {
  const bool drops = dropout_.active() || drop_path_.active();
  const auto [qkv, input] =
      before ? attention_.project(*before, x, ops::KeepNorm::kYes) : ops::NormalizedLinear{attention_.project(x), x};
  const Variable attended = drops ? ops::add(input, drop_path_(dropout_(attention_.attend(qkv, options))))
                                  : attention_.attend(qkv, options, input);
  const auto [hidden, normalized] = intermediate_.after(norm1_, attended, ops::KeepNorm::kYes);
  return drops ? ops::add(normalized, drop_path_(dropout_(output_.after(activation_, hidden))))
               : output_.after(activation_, hidden, normalized);
}

Variable BertBlock::sum(const Variable& x, const LayerNorm* before, const ops::AttentionOptions& options) const {
  if (!checkpoint_) return forward(x, before, options);
  // By value: the recompute in backward may come when this block's caller is gone, or the training flag was changed.
  const auto recompute = [block = as_now(), norm = before ? std::optional(*before) : std::nullopt,
                       options](std::span<const Variable> inputs) {
    return std::vector<Variable>{block.forward(inputs[0], norm ? &*norm : nullptr, options)};
  };
  std::vector<Variable> inputs{x};
  if (options.valid.defined()) inputs.emplace_back(options.valid);  // so that a change before backward is found
  return checkpoint(recompute, inputs).front();
}

BertBlock BertBlock::as_now() const {
  BertBlock copy = *this;
  copy.dropout_ = dropout_.as_now();
  copy.drop_path_ = drop_path_.as_now();
  return copy;
}

Variable BertBlock::operator()(const Variable& x, const ops::AttentionOptions& options) const {
  return norm2_(sum(x, nullptr, options));
}

Bert::Bert(const Builder& builder, const BertConfig& config)
    : config_(check_config(config)),
      words_(builder.child("embeddings.word_embeddings"), config.vocabulary, config.encoder.width, kInit),
      positions_(builder.child("embeddings.position_embeddings"), config.max_tokens + config.position_offset.value_or(0),
                 config.encoder.width, kInit),
      types_(builder.child("embeddings.token_type_embeddings"), config.types, config.encoder.width, kInit),
      norm_(builder.child("embeddings.LayerNorm"), config.encoder.width, config.encoder.epsilon),
      dropout_(builder, config.encoder.dropout) {
  positions_.weight.set("position_offset", fmt::to_string(config.position_offset.value_or(0)));
  positions_.weight.set("pooling", config.pooling == BertPooling::kCls ? "cls" : "mean");
  for (std::int64_t i = 0; i < config.encoder.layers; ++i) {
    blocks_.emplace_back(builder.child("encoder.layer").child(std::to_string(i)), config.encoder);
  }
}

Variable Bert::embed(const TokenBatch& tokens) const {
  check_tokens("bert", tokens, config_.max_tokens, config_.vocabulary, config_.types);
  const std::int64_t first = config_.position_offset.value_or(0);
  const Variable positions = first > 0 && tokens.valid.defined()
                                 ? positions_(ops::token_positions(tokens.valid, first))
                                 : ops::slice(positions_.weight, 0, first, first + tokens.ids.size(1));
  const Variable types = tokens.types.defined() ? types_(tokens.types) : ops::slice(types_.weight, 0, 0, 1);
  // What has no axis of samples is added first, and once.
  return types.rank() == 3 ? ops::add(ops::add(words_(tokens.ids), types), positions)
                           : ops::add(words_(tokens.ids), ops::add(positions, types));
}

Variable Bert::hidden_states(const TokenBatch& tokens) const {
  Variable x = embed(tokens);
  const LayerNorm* norm = &norm_;  // that x still has before it
  if (dropout_.active()) x = dropout_((*std::exchange(norm, nullptr))(x));
  for (const BertBlock& block : blocks_) {
    x = block.sum(x, norm, {.valid = tokens.valid});
    norm = &block.last_norm();
  }
  return (*norm)(x);
}

Variable Bert::operator()(const TokenBatch& tokens) const {
  const Variable x = hidden_states(tokens);
  return config_.pooling == BertPooling::kCls ? ops::cls_pool(x, tokens.valid) : ops::mean_pool(x, tokens.valid);
}

}  // namespace tapecache::models
