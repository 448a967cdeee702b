#include "tapecache/models/bert.h"

#include <fmt/format.h>

#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/tokens.h"

namespace tapecache::models {

namespace {

constexpr Init kInit = Init::normal(0.02);

}  // namespace

const BertConfig& BertConfig::checked() const {
  detail::require_sizes("bert", {{"vocabulary", vocabulary}, {"max_tokens", max_tokens}, {"types", types}});
  if (types == 1 && !position_offset) {
    throw ValueError("bert: types is 1 without a position_offset, expected one: 2 for RoBERTa and XLM-R, 0 for BERT");
  }
  if (position_offset.value_or(0) < 0) {
    throw ValueError(fmt::format("bert: position_offset is {}, expected at least 0", *position_offset));
  }
  encoder.checked("bert");
  return *this;
}

Bert::Bert(const Builder& builder, const BertConfig& config)
    : Model(builder),
      config_(config.checked()),
      words_(builder.child("embeddings.word_embeddings"), config.vocabulary, config.encoder.width, kInit),
      positions_(builder.child("embeddings.position_embeddings"),
                 config.max_tokens + config.position_offset.value_or(0), config.encoder.width, kInit),
      types_(builder.child("embeddings.token_type_embeddings"), config.types, config.encoder.width, kInit),
      norm_(builder.child("embeddings.LayerNorm"), config.encoder.width, config.encoder.epsilon),
      dropout_(builder, config.encoder.dropout),
      encoder_(builder, TransformerConfig(config.encoder), BlockStyle::bert(), "encoder.layer") {
  positions_.weight.set("position_offset", fmt::to_string(config.position_offset.value_or(0)));
  positions_.weight.set("pooling", config.pooling == BertConfig::Pooling::kCls ? "cls" : "mean");
}

Variable Bert::embed(const TokenBatch& tokens) const {
  tokens.check("bert", config_.max_tokens, config_.vocabulary, config_.types);
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
  const Variable x = embed(tokens);
  if (!dropout_.active(training())) return encoder_(x, {.valid = tokens.valid}, {}, &norm_);
  return encoder_(dropout_(norm_(x)), {.valid = tokens.valid});
}

Variable Bert::operator()(const TokenBatch& tokens) const {
  const Variable x = hidden_states(tokens);
  return config_.pooling == BertConfig::Pooling::kCls ? ops::cls_pool(x, tokens.valid)
                                                      : ops::mean_pool(x, tokens.valid);
}

}  // namespace tapecache::models
