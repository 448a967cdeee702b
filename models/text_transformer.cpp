#include "tapecache/models/clip.h"

#include <string>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/tokens.h"

namespace tapecache::models {

namespace {

std::int64_t end_of_text(const TextConfig& config) { return config.end_of_text.value_or(config.vocabulary - 1); }

std::string pooling_name(const TextConfig& config) {
  switch (config.pooling) {
    case TextConfig::Pooling::kEndOfText:
      return fmt::format("token {}", end_of_text(config));
    case TextConfig::Pooling::kLargestId:  // the same for every text that ends in it
      return fmt::format("token {}", config.vocabulary - 1);
    case TextConfig::Pooling::kLastToken:
      return "last token";
    case TextConfig::Pooling::kMean:
      return "mean";
  }
  throw ValueError(
      fmt::format("text transformer: pooling is {}, expected one there is", static_cast<int>(config.pooling)));
}

/// Ids of 1 where a text's largest valid id stands, and of 0 elsewhere. In f64, as below.
Tensor are_largest(const TokenBatch& tokens) {
  const NoRecording off;
  const auto filled = [&](std::int64_t columns) {
    return Variable(Tensor::full({tokens.ids.size(0), columns}, 1, DType::kFloat64, tokens.ids.device()));
  };
  // Of padding below every id.
  Variable ids = ops::add(Variable(tokens.ids.to(DType::kFloat64)), filled(1));
  if (tokens.valid.defined()) ids = ops::multiply(ids, Variable(tokens.valid.to(DType::kFloat64)));
  const Variable largest = ops::reshape(ops::max(ids, 1), {ids.size(0), 1});
  return ops::relu(ops::add(ops::subtract(ids, largest), filled(1))).value().to(DType::kInt64);
}

}  // namespace

const TextConfig& TextConfig::checked() const {
  detail::require_sizes("text transformer", {{"vocabulary", vocabulary}, {"max_tokens", max_tokens}});
  if (end_of_text && (*end_of_text < 0 || *end_of_text >= vocabulary)) {
    throw ValueError(
        fmt::format("text transformer: end_of_text is {}, expected an id from 0 to {}", *end_of_text, vocabulary - 1));
  }
  if (padding && (*padding < 0 || *padding >= vocabulary)) {
    throw ValueError(
        fmt::format("text transformer: padding is {}, expected an id from 0 to {}", *padding, vocabulary - 1));
  }
  encoder.checked("text transformer");
  return *this;
}

TextTransformer::TextTransformer(const Builder& builder, const TextConfig& config)
    : Model(builder),
      config_(config.checked()),
      token_embedding_(builder.child("embeddings").child("token_embedding"), config.vocabulary, config.encoder.width,
                       Init::normal(0.02)),
      positions_(builder.child("embeddings").child("position_embedding"), config.max_tokens, config.encoder.width,
                 Init::normal(0.01)),
      encoder_(builder.child("encoder"), config.encoder),
      final_norm_(builder.child("final_layer_norm"), config.encoder.width, config.encoder.epsilon) {
  positions_.weight.set("causal", config.causal ? "true" : "false");
  positions_.weight.set("pooling", pooling_name(config));
  if (config.padding) positions_.weight.set("padding", fmt::format("token {}", *config.padding));
}

TokenBatch TextTransformer::padded(const TokenBatch& tokens) const {
  tokens.check("text transformer", config_.max_tokens, config_.vocabulary);
  if (!config_.padding) return tokens;
  const auto padding = static_cast<double>(*config_.padding);
  const NoRecording off;
  // In f64, which holds every id, so that all is done on the device.
  Variable ids(tokens.ids.to(DType::kFloat64));
  const std::int64_t batch = ids.size(0), missing = config_.max_tokens - ids.size(1);
  const auto of_padding = [&](std::int64_t columns) {
    return Variable(Tensor::full({batch, columns}, padding, DType::kFloat64, ids.device()));
  };
  if (tokens.valid.defined()) {
    const Variable valid(tokens.valid.to(DType::kFloat64));
    require_true_in_each_row(
        ops::slice(valid, 1, 0, 1).value().to(DType::kBool),
        {"text transformer: sample {position} is padded on the left, expected padding, a token here, on the right"});
    ids = ops::add(ops::multiply(ops::subtract(ids, of_padding(1)), valid), of_padding(1));
  }
  if (missing > 0) ids = ops::concat({ids, of_padding(missing)}, 1);
  return {ids.value().to(DType::kInt64)};
}

Variable TextTransformer::embed(const TokenBatch& tokens) const {
  const Variable positions = ops::slice(positions_.weight, 0, 0, tokens.ids.size(1));
  return ops::add(token_embedding_(tokens.ids), positions);
}

Tensor TextTransformer::ends_of_text(const TokenBatch& tokens) const {
  if (config_.pooling == TextConfig::Pooling::kLargestId) return ops::first_token(are_largest(tokens), 1, tokens.valid);
  const std::int64_t end = end_of_text(config_);
  return checked_indices(ops::first_token(tokens.ids, end, tokens.valid), tokens.ids.size(1), [&] {
    return CheckText{
        fmt::format("text transformer: sample {{position}} has no end-of-text token, {}, among its valid ones; "
                    "TextConfig::Pooling::kLastToken needs none",
                    end)};
  });
}

Variable TextTransformer::hidden_states(const TokenBatch& tokens) const { return encoded(padded(tokens)); }

Variable TextTransformer::encoded(const TokenBatch& tokens) const {
  return final_norm_(encoder_(embed(tokens), {.causal = config_.causal, .valid = tokens.valid}));
}

Variable TextTransformer::operator()(const TokenBatch& given) const {
  const TokenBatch tokens = padded(given);
  if (config_.pooling == TextConfig::Pooling::kMean) return ops::mean_pool(encoded(tokens), tokens.valid);
  const Variable embedded = embed(tokens);
  TransformerEncoder::TokenChoice choice = [valid = tokens.valid](const Variable& x) {
    return ops::last_token_pool(x, valid);
  };
  if (config_.pooling == TextConfig::Pooling::kEndOfText || config_.pooling == TextConfig::Pooling::kLargestId) {
    choice = [ends = ends_of_text(tokens)](const Variable& x) { return ops::select_token(x, ends); };
  }
  // The norm works on each token alone, so it may follow the choice of one.
  return final_norm_(encoder_(embedded, {.causal = config_.causal, .valid = tokens.valid}, choice));
}

}  // namespace tapecache::models
