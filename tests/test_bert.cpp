#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "model_gradient_checks.h"
#include "naive_transformer.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/compare.h"
#include "tapecache/gradcache/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/ops/normalize.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

BertConfig small_bert(double dropout = 0, bool checkpoint = false) {
  return {.vocabulary = 11,
          .max_tokens = 6,
          .encoder = {.width = 12,
                      .layers = 2,
                      .heads = 3,
                      .mlp_width = 20,
                      .activation = Activation::kGelu,
                      .dropout = dropout,
                      .epsilon = 1e-12,
                      .checkpoint = checkpoint}};
}

/// A model in f64 whose parameters are nothing special.
struct Setup {
  BertConfig config;
  Builder builder{6, DType::kFloat64};
  Bert bert;

  explicit Setup(const BertConfig& c = small_bert()) : config(c), bert(builder, c) { shake(builder.parameters(), 400); }
};

/// BERT for one sentence.
class NaiveBert : public NaiveTransformer {
 public:
  NaiveBert(std::span<const Parameter> parameters, const BertConfig& config)
      : NaiveTransformer(parameters), config_(config) {}

  std::vector<double> operator()(const std::vector<std::int32_t>& ids) const {
    const TransformerConfig& c = config_.encoder;
    Rows x = rows("embeddings.word_embeddings.weight", ids, c.width);
    add_positions(x, "embeddings.position_embeddings.weight");
    add(x, rows("embeddings.token_type_embeddings.weight", std::vector<std::int32_t>(ids.size(), 0), c.width));
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
    return config_.pooling == BertPooling::kCls ? x.front() : mean(x);
  }

 private:
  BertConfig config_;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(bert)

BOOST_AUTO_TEST_CASE(parameters_are_named_as_in_hugging_face_checkpoints) {
  // BertModel(config, add_pooling_layer=False).state_dict() of transformers, without position_ids.
  std::map<std::string, Shape> expected{{"embeddings.word_embeddings.weight", {11, 12}},
                                        {"embeddings.position_embeddings.weight", {6, 12}},
                                        {"embeddings.token_type_embeddings.weight", {2, 12}},
                                        {"embeddings.LayerNorm.weight", {12}},
                                        {"embeddings.LayerNorm.bias", {12}}};
  for (const std::string layer : {"encoder.layer.0.", "encoder.layer.1."}) {
    for (const std::string square : {"attention.self.query", "attention.self.key", "attention.self.value",
                                     "attention.output.dense"}) {
      expected[layer + square + ".weight"] = {12, 12};
      expected[layer + square + ".bias"] = {12};
    }
    for (const std::string norm : {"attention.output.LayerNorm", "output.LayerNorm"}) {
      expected[layer + norm + ".weight"] = {12};
      expected[layer + norm + ".bias"] = {12};
    }
    expected[layer + "intermediate.dense.weight"] = {20, 12};
    expected[layer + "intermediate.dense.bias"] = {20};
    expected[layer + "output.dense.weight"] = {12, 20};
    expected[layer + "output.dense.bias"] = {12};
  }
  const Setup setup;
  std::map<std::string, Shape> found;
  for (const Parameter& p : setup.builder.parameters()) found[p.name()] = p.value().shape();
  BOOST_TEST((found == expected));
}

BOOST_AUTO_TEST_CASE(computes_what_bert_computes) {
  for (const BertPooling pooling : {BertPooling::kMean, BertPooling::kCls}) {
    BertConfig config = small_bert();
    config.pooling = pooling;
    const Setup setup(config);
    const NaiveBert naive(setup.builder.parameters(), config);
    // Padded beside each other, and each by itself in the reference.
    const std::vector<double> found = doubles(setup.bert(sentences()).value());
    for (std::size_t i = 0; i < kSentences.size(); ++i) {
      const std::vector<double> expected = naive(kSentences[i]);
      for (std::size_t j = 0; j < expected.size(); ++j) {
        BOOST_TEST(std::abs(found[i * expected.size() + j] - expected[j]) <= 1e-12, "sentence " << i);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients) {
  for (const BertPooling pooling : {BertPooling::kMean, BertPooling::kCls}) {
    BertConfig config = small_bert(pooling == BertPooling::kMean ? 0.25 : 0.0);
    config.pooling = pooling;
    const Setup setup(config);
    const TokenBatch tokens = sentences();
    BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling)) {
      check_gradients([&] { return begin_random_step(1, 2), setup.bert(tokens); }, setup.builder.parameters());
    }
  }
}

BOOST_AUTO_TEST_CASE(activation_checkpointing_gives_the_same_bits) {
  const Setup plain(small_bert(0.25)), checkpointed(small_bert(0.25, true));
  for (const Setup* setup : {&plain, &checkpointed}) {
    run_backward([&] { return begin_random_step(1, 2), setup->bert(sentences()); });
  }
  const auto &a = plain.builder.parameters(), &b = checkpointed.builder.parameters();
  BOOST_REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) BOOST_TEST(same_bits(a[i].gradient(), b[i].gradient()), a[i].name());
}

BOOST_AUTO_TEST_CASE(cached_step_equals_direct_step) {
  const Setup setup(small_bert(0.25));
  const auto encode = [&](const TokenBatch& tokens) { return ops::l2_normalize(setup.bert(tokens)); };
  const std::vector<gradcache::Tower> towers{{"query", sentences(), encode}, {"document", sentences(), encode}};
  const gradcache::Loss loss = [](auto r) { return gradcache::info_nce(r[0], r[1]); };
  gradcache::StepOptions by_tokens;
  by_tokens.chunk_tokens = 8;
  for (const gradcache::StepOptions& options : {gradcache::StepOptions{{2}}, by_tokens}) {
    begin_random_step(1, 2);
    // Over all of them: the gradient of the key biases is rounding alone.
    BOOST_TEST(gradcache::compare(towers, loss, options, setup.builder.parameters()).relative_norm <= 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(what_cannot_be) {
  const auto says = [](const std::string& part) {
    return [part](const Error& e) { return std::string(e.what()).find(part) != std::string::npos; };
  };
  BertConfig config = small_bert();
  config.types = 0;
  BOOST_CHECK_EXCEPTION(Setup{config}, ValueError, says("types 0"));
  config = small_bert();
  config.encoder.heads = 5;
  BOOST_CHECK_EXCEPTION(Setup{config}, ValueError, says("5 heads"));
  const Setup setup;
  const auto ids = [](std::vector<std::int32_t> values) {
    const auto count = static_cast<std::int64_t>(values.size());
    return TokenBatch{Tensor::from(values, {1, count}), {}};
  };
  BOOST_CHECK_EXCEPTION(setup.bert(ids({1, 2, 11})), ValueError, says("bert: token 2 of sample 0 is 11"));
  BOOST_CHECK_EXCEPTION(setup.bert(ids({1, 2, 3, 4, 5, 6, 7})), ShapeError, says("1 to 6 tokens"));
}

BOOST_AUTO_TEST_SUITE_END()
