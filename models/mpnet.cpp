#include "tapecache/models/bert.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/tokens.h"

namespace tapecache::models {

namespace {

constexpr Init kInit = Init::normal(0.02);
constexpr std::int64_t kBuckets = 32;

constexpr BlockStyle kMpnetBlock = {
    .name = "mpnet block",
    .norm = BlockStyle::Norm::kPost,
    .attention = {"attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"},
    .norm1 = "attention.LayerNorm",
    .norm2 = "output.LayerNorm",
    .fc1 = "intermediate.dense",
    .fc2 = "output.dense",
    .projected = ops::ResultType::kComputed,
    .weights = kInit};

}  // namespace

const MpnetConfig& MpnetConfig::checked() const {
  detail::require_sizes("mpnet", {{"vocabulary", vocabulary}, {"max_tokens", max_tokens}});
  if (position_offset < 0) {
    throw ValueError(fmt::format("mpnet: position_offset is {}, expected at least 0", position_offset));
  }
  encoder.checked("mpnet");
  return *this;
}

std::int64_t Mpnet::relative_bucket(std::int64_t key_minus_query) {
  constexpr std::int64_t kSide = kBuckets / 2, kExact = kSide / 2;
  constexpr float kFarthest = 128;
  const std::int64_t side = key_minus_query > 0 ? kSide : 0, distance = std::abs(key_minus_query);
  if (distance < kExact) return side + distance;
  // In f32, as the models were trained, so that distances at the border of two ranges fall into the same.
  const float exact = static_cast<float>(kExact);
  const float range =
      std::log(static_cast<float>(distance) / exact) / std::log(kFarthest / exact) * static_cast<float>(kSide - kExact);
  return side + std::min(kExact + static_cast<std::int64_t>(range), kSide - 1);
}

Mpnet::Mpnet(const Builder& builder, const MpnetConfig& config)
    : Model(builder),
      config_(config.checked()),
      words_(builder.child("embeddings.word_embeddings"), config.vocabulary, config.encoder.width, kInit),
      positions_(builder.child("embeddings.position_embeddings"), config.max_tokens + config.position_offset,
                 config.encoder.width, kInit),
      norm_(builder.child("embeddings.LayerNorm"), config.encoder.width, config.encoder.epsilon),
      dropout_(builder, config.encoder.dropout),
      encoder_(builder, TransformerConfig(config.encoder), kMpnetBlock, "encoder.layer"),
      distances_(builder.child("encoder.relative_attention_bias"), kBuckets, config.encoder.heads, kInit) {
  positions_.weight.set("position_offset", fmt::to_string(config.position_offset));
}

Variable Mpnet::embed(const TokenBatch& tokens) const {
  tokens.check("mpnet", config_.max_tokens, config_.vocabulary);
  const std::int64_t first = config_.position_offset;
  const Variable positions = tokens.valid.defined()
                                 ? positions_(ops::token_positions(tokens.valid, first))
                                 : ops::slice(positions_.weight, 0, first, first + tokens.ids.size(1));
  return ops::add(words_(tokens.ids), positions);
}

/// [heads, tokens, tokens]
Variable Mpnet::score_bias(std::int64_t tokens) const {
  Tensor buckets = Tensor::empty({tokens * tokens}, DType::kInt64);
  std::int64_t* bucket = buckets.mutable_data<std::int64_t>();
  for (std::int64_t query = 0; query < tokens; ++query) {
    for (std::int64_t key = 0; key < tokens; ++key) *bucket++ = relative_bucket(key - query);
  }
  const Variable by_pair = distances_(buckets);  // [tokens * tokens, heads]
  return ops::reshape(ops::transpose(by_pair, 0, 1), {config_.encoder.heads, tokens, tokens});
}

Variable Mpnet::hidden_states(const TokenBatch& tokens) const {
  const Variable x = embed(tokens);
  ops::AttentionOptions options{.valid = tokens.valid};
  options.bias = score_bias(tokens.ids.size(1));
  if (!dropout_.active(training())) return encoder_(x, options, {}, &norm_);
  return encoder_(dropout_(norm_(x)), options);
}

}  // namespace tapecache::models
