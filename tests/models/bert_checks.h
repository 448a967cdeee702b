#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "model_checks.h"
#include "naive_transformer.h"
#include "tapecache/models/bert.h"

namespace tapecache::testing {

inline models::BertConfig small_bert(double dropout = 0, bool checkpoint = false) {
  return {.vocabulary = 11,
          .max_tokens = 6,
          .encoder = {.width = 12,
                      .layers = 2,
                      .heads = 3,
                      .mlp_width = 20,
                      .activation = ops::Activation::kGelu,
                      .dropout = dropout,
                      .epsilon = 1e-12,
                      .checkpoint = checkpoint}};
}

/// A model in f64 whose parameters are nothing special.
struct BertSetup {
  models::BertConfig config;
  models::Builder builder{6, DType::kFloat64};
  models::Bert bert;

  explicit BertSetup(const models::BertConfig& c = small_bert()) : config(c), bert(builder, c) {
    shake(builder.parameters(), 400);
  }
};

/// BERT for one sentence.
class NaiveBert : public NaiveTransformer {
 public:
  NaiveBert(std::span<const Parameter> parameters, const models::BertConfig& config)
      : NaiveTransformer(parameters), config_(config) {}

  std::vector<double> operator()(const std::vector<std::int32_t>& ids, std::vector<std::int32_t> types = {}) const {
    const models::TransformerConfig c(config_.encoder);
    Rows x = rows("embeddings.word_embeddings.weight", ids, c.width);
    std::vector<std::int32_t> positions(ids.size());
    std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(config_.position_offset.value_or(0)));
    types.resize(ids.size());
    add(x, rows("embeddings.position_embeddings.weight", positions, c.width));
    add(x, rows("embeddings.token_type_embeddings.weight", types, c.width));
    x = norm(x, "embeddings.LayerNorm", c);
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      const std::string block = "encoder.layer." + std::to_string(layer) + ".";
      add(x, attention(x, block + "attention.", c, false, {"self.query", "self.key", "self.value", "output.dense"}));
      x = norm(x, block + "attention.output.LayerNorm", c);
      Rows hidden = linear(x, block + "intermediate.dense");
      for (auto& row : hidden) {
        for (double& v : row) v = 0.5 * v * std::erfc(-v / std::numbers::sqrt2);
      }
      add(x, linear(hidden, block + "output.dense"));
      x = norm(x, block + "output.LayerNorm", c);
    }
    return config_.pooling == models::BertConfig::Pooling::kCls ? x.front() : mean(x);
  }

 private:
  models::BertConfig config_;
};

}  // namespace tapecache::testing
