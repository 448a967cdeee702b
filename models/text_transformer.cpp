#include "tapecache/models/text_transformer.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/pooling.h"

namespace tapecache::models {

namespace {

constexpr const char* kTower = "text transformer";

void check_ids(const Tensor& ids, std::int64_t max_tokens, std::int64_t vocabulary) {
  if (!ids.defined() || ids.rank() != 2 || ids.size(1) < 1 || ids.size(1) > max_tokens) {
    throw ShapeError(fmt::format("{}: ids are {}, expected [batch, tokens] with 1 to {} tokens", kTower, describe(ids),
                                 max_tokens));
  }
  if (ids.dtype() != DType::kInt32 && ids.dtype() != DType::kInt64) {
    throw DTypeError(fmt::format("{}: ids are {}, expected int32 or int64", kTower, name(ids.dtype())));
  }
  const std::vector<std::int64_t> values = ids.to(DType::kInt64).to_vector<std::int64_t>();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= vocabulary) {
      const auto tokens = static_cast<std::size_t>(ids.size(1));
      throw ValueError(fmt::format("{}: token {} of sample {} is {}, expected an id from 0 to {}", kTower, i % tokens,
                                   i / tokens, values[i], vocabulary - 1));
    }
  }
}

void check_valid(const Tensor& valid, const Shape& expected) {
  if (valid.dtype() != DType::kBool) {
    throw DTypeError(fmt::format("{}: valid is {}, expected bool", kTower, name(valid.dtype())));
  }
  if (valid.shape() != expected) {
    throw ShapeError(fmt::format("{}: valid has shape {}, expected that of the ids, {}", kTower,
                                 to_string(valid.shape()), to_string(expected)));
  }
  const Tensor host = valid.to(Device::cpu());
  for (std::int64_t i = 0; i < expected[0]; ++i) {
    const bool* row = host.data<bool>() + i * expected[1];
    if (std::none_of(row, row + expected[1], [](bool v) { return v; })) {
      throw ValueError(fmt::format("{}: sample {} has no valid token, expected at least one", kTower, i));
    }
  }
}

}  // namespace

TextTransformer::TextTransformer(const Builder& builder, const TextConfig& config)
    : config_(config),
      token_embedding_(builder.child("embeddings").child("token_embedding"), config.vocabulary, config.encoder.width,
                       Init::normal(0.02)),
      positions_(builder.child("embeddings").child("position_embedding"), config.max_tokens, config.encoder.width,
                 Init::normal(0.01)),
      encoder_(builder.child("encoder"), config.encoder),
      final_norm_(builder.child("final_layer_norm"), config.encoder.width, config.encoder.epsilon) {}

Variable TextTransformer::operator()(const TokenBatch& tokens) const {
  check_ids(tokens.ids, config_.max_tokens, config_.vocabulary);
  if (tokens.valid.defined()) check_valid(tokens.valid, tokens.ids.shape());
  const Variable positions = ops::slice(positions_.weight, 0, 0, tokens.ids.size(1));
  const Variable embedded = ops::add(token_embedding_(tokens.ids), positions);
  const Variable encoded = encoder_(embedded, {.causal = config_.causal, .valid = tokens.valid});
  // The norm works on each token alone, so it may follow the choice of the last one.
  if (config_.pooling == TextPooling::kLastToken) return final_norm_(ops::last_token_pool(encoded, tokens.valid));
  return ops::mean_pool(final_norm_(encoded), tokens.valid);
}

}  // namespace tapecache::models
