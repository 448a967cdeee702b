#include "tapecache/models/text_transformer.h"

#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/pooling.h"

namespace tapecache::models {

const TextConfig& check_config(const TextConfig& config) {
  detail::require_sizes("text transformer", {{"vocabulary", config.vocabulary}, {"max_tokens", config.max_tokens}});
  check_config("text transformer", config.encoder);
  return config;
}

TextTransformer::TextTransformer(const Builder& builder, const TextConfig& config)
    : config_(check_config(config)),
      token_embedding_(builder.child("embeddings").child("token_embedding"), config.vocabulary, config.encoder.width,
                       Init::normal(0.02)),
      positions_(builder.child("embeddings").child("position_embedding"), config.max_tokens, config.encoder.width,
                 Init::normal(0.01)),
      encoder_(builder.child("encoder"), config.encoder),
      final_norm_(builder.child("final_layer_norm"), config.encoder.width, config.encoder.epsilon) {}

Variable TextTransformer::embed(const TokenBatch& tokens) const {
  check_tokens("text transformer", tokens, config_.max_tokens, config_.vocabulary);
  const Variable positions = ops::slice(positions_.weight, 0, 0, tokens.ids.size(1));
  return ops::add(token_embedding_(tokens.ids), positions);
}

Variable TextTransformer::hidden_states(const TokenBatch& tokens) const {
  return final_norm_(encoder_(embed(tokens), {.causal = config_.causal, .valid = tokens.valid}));
}

Variable TextTransformer::operator()(const TokenBatch& tokens) const {
  if (config_.pooling == TextPooling::kMean) return ops::mean_pool(hidden_states(tokens), tokens.valid);
  // The norm works on each token alone, so it may follow the choice of the last one.
  const TokenChoice last = [valid = tokens.valid](const Variable& x) { return ops::last_token_pool(x, valid); };
  return final_norm_(encoder_(embed(tokens), {.causal = config_.causal, .valid = tokens.valid}, last));
}

}  // namespace tapecache::models
