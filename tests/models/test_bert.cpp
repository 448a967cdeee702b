#include <functional>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "bert_checks.h"
#include "model_gradient_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(bert)

BOOST_AUTO_TEST_CASE(parameters_are_named_as_in_hugging_face_checkpoints) {
  // BertModel(config, add_pooling_layer=False).state_dict() of transformers, without position_ids.
  const std::map<std::string, Shape> expected{
      {"embeddings.word_embeddings.weight", {11, 12}},
      {"embeddings.position_embeddings.weight", {6, 12}},
      {"embeddings.token_type_embeddings.weight", {2, 12}},
      {"embeddings.LayerNorm.weight", {12}},
      {"embeddings.LayerNorm.bias", {12}},
      {"encoder.layer.0.attention.self.query.weight", {12, 12}},
      {"encoder.layer.0.attention.self.query.bias", {12}},
      {"encoder.layer.0.attention.self.key.weight", {12, 12}},
      {"encoder.layer.0.attention.self.key.bias", {12}},
      {"encoder.layer.0.attention.self.value.weight", {12, 12}},
      {"encoder.layer.0.attention.self.value.bias", {12}},
      {"encoder.layer.0.attention.output.dense.weight", {12, 12}},
      {"encoder.layer.0.attention.output.dense.bias", {12}},
      {"encoder.layer.0.attention.output.LayerNorm.weight", {12}},
      {"encoder.layer.0.attention.output.LayerNorm.bias", {12}},
      {"encoder.layer.0.intermediate.dense.weight", {20, 12}},
      {"encoder.layer.0.intermediate.dense.bias", {20}},
      {"encoder.layer.0.output.dense.weight", {12, 20}},
      {"encoder.layer.0.output.dense.bias", {12}},
      {"encoder.layer.0.output.LayerNorm.weight", {12}},
      {"encoder.layer.0.output.LayerNorm.bias", {12}},
      {"encoder.layer.1.attention.self.query.weight", {12, 12}},
      {"encoder.layer.1.attention.self.query.bias", {12}},
      {"encoder.layer.1.attention.self.key.weight", {12, 12}},
      {"encoder.layer.1.attention.self.key.bias", {12}},
      {"encoder.layer.1.attention.self.value.weight", {12, 12}},
      {"encoder.layer.1.attention.self.value.bias", {12}},
      {"encoder.layer.1.attention.output.dense.weight", {12, 12}},
      {"encoder.layer.1.attention.output.dense.bias", {12}},
      {"encoder.layer.1.attention.output.LayerNorm.weight", {12}},
      {"encoder.layer.1.attention.output.LayerNorm.bias", {12}},
      {"encoder.layer.1.intermediate.dense.weight", {20, 12}},
      {"encoder.layer.1.intermediate.dense.bias", {20}},
      {"encoder.layer.1.output.dense.weight", {12, 20}},
      {"encoder.layer.1.output.dense.bias", {12}},
      {"encoder.layer.1.output.LayerNorm.weight", {12}},
      {"encoder.layer.1.output.LayerNorm.bias", {12}},
  };
  const BertSetup setup;
  check_names(setup.builder.parameters(), expected);
}

BOOST_AUTO_TEST_CASE(computes_what_bert_computes) {
  for (const BertConfig::Pooling pooling : {BertConfig::Pooling::kMean, BertConfig::Pooling::kCls}) {
    for (const double epsilon : {1e-12, 1e-3}) {  // the larger one shows where it goes
      BertConfig config = small_bert();
      config.pooling = pooling;
      config.encoder.epsilon = epsilon;
      const BertSetup setup(config);
      const NaiveBert naive(setup.builder.parameters(), config);
      // Padded beside each other, and each by itself in the reference.
      const Tensor found = values_of([&] { return setup.bert(sentences()); });
      BOOST_REQUIRE((found.shape() == Shape{5, 12}));
      for (std::size_t i = 0; i < kSentences.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i);
        BOOST_TEST(max_difference(doubles(found.slice(row, row + 1)), naive(kSentences[i])) <= 1e-12, "sentence " << i);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(hidden_states_are_what_is_pooled) {
  const BertSetup setup;
  const TokenBatch words = sentences();
  const Tensor hidden = values_of([&] { return setup.bert.hidden_states(words); });
  BOOST_TEST((hidden.shape() == Shape{5, 5, setup.config.encoder.width}));
  BOOST_TEST(same_bits(values_of([&] { return ops::mean_pool(hidden, words.valid); }),
                       values_of([&] { return setup.bert(words); })));
}

BOOST_AUTO_TEST_CASE(a_norm_before_blocks_of_either_kind) {
  for (const BlockStyle& style : {BlockStyle::clip(), BlockStyle::bert()}) {
    const Builder builder(3, DType::kFloat64);
    const LayerNorm norm(builder.child("norm"), 8);
    const TransformerEncoder encoder(builder, {.width = 8, .layers = 2, .heads = 2, .mlp_width = 8}, style);
    shake(builder.parameters(), 100);
    const Variable x = random_values({2, 3, 8}, 4);
    const Tensor joined = values_of([&] { return encoder(x, {}, {}, &norm); }),
                 apart = values_of([&] { return encoder(norm(x)); });
    BOOST_TEST(max_difference(joined, apart) <= 1e-13, style.name);
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_a_block) {
  const TokenBatch padded = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 1, 1}, {1}, {1, 1, 1, 1}});
  for (const Tensor& valid : {Tensor(), padded.valid}) {
    for (const double dropout : {0.0, 0.25}) {
      BertEncoderConfig config = small_bert(dropout).encoder;
      config.drop_path = dropout;
      const Builder builder(3, DType::kFloat64);
      const TransformerBlock block(builder, TransformerConfig(config), BlockStyle::bert());
      shake(builder.parameters(), 100);
      const Parameter x("x", random_values({3, 4, 12}, 8));
      std::vector<Parameter> parameters = builder.parameters();
      parameters.push_back(x);
      BOOST_TEST_CONTEXT("dropout " << dropout << (valid.defined() ? ", padded" : "")) {
        BOOST_TEST(parameters.size() == 17u);
        check_gradients([&] { return begin_random_step(1, 2), block(x, {.valid = valid}); }, parameters);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients) {
  for (const BertConfig::Pooling pooling : {BertConfig::Pooling::kMean, BertConfig::Pooling::kCls}) {
    for (const double dropout : {0.0, 0.25}) {
      BertConfig config = small_bert(dropout);
      config.pooling = pooling;
      const BertSetup setup(config);
      const TokenBatch tokens = sentences();
      BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << ", dropout " << dropout) {
        check_gradients([&] { return begin_random_step(1, 2), setup.bert(tokens); }, setup.builder.parameters());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(padding_changes_no_representation) {
  for (const BertConfig::Pooling pooling : {BertConfig::Pooling::kMean, BertConfig::Pooling::kCls}) {
    BertConfig config = small_bert();
    config.pooling = pooling;
    const BertSetup setup(config);
    BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling)) {
      for (const std::int32_t pad_id : {0, 9}) {
        const Tensor together = values_of([&] { return setup.bert(TokenBatch::pad(kSentences, pad_id, 6)); });
        for (std::size_t i = 0; i < kSentences.size(); ++i) {
          TokenBatch alone = TokenBatch::pad(std::span(&kSentences[i], 1));
          alone.valid = Tensor();
          const auto row = static_cast<std::int64_t>(i);
          BOOST_TEST(max_difference(together.slice(row, row + 1), values_of([&] { return setup.bert(alone); })) <=
                     1e-12);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(activation_checkpointing_gives_the_same_bits) {
  for (const double dropout : {0.0, 0.25}) {
    const BertSetup plain(small_bert(dropout)), checkpointed(small_bert(dropout, true));
    std::vector<Tensor> values;
    for (const BertSetup* setup : {&plain, &checkpointed}) {
      run_backward([&] {
        begin_random_step(1, 2);
        const Variable y = setup->bert(sentences());
        values.push_back(y.value().clone());
        return y;
      });
    }
    BOOST_REQUIRE(values.size() == 2u);
    BOOST_TEST(same_bits(values[0], values[1]));
    const auto &a = plain.builder.parameters(), &b = checkpointed.builder.parameters();
    BOOST_REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      BOOST_REQUIRE((a[i].gradient().defined() && b[i].gradient().defined()));
      BOOST_TEST(same_bits(a[i].gradient(), b[i].gradient()), a[i].name());
    }
  }
}

BOOST_AUTO_TEST_CASE(cached_step_equals_direct_step) {
  const std::vector<std::vector<std::int32_t>> documents(kSentences.rbegin(), kSentences.rend());
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };
  struct Expected {
    gradcache::Cut cut;
    std::int64_t chunks;
  };
  const Expected expected[] = {{{2}, 6}, {gradcache::ChunkTokens{8}, 6}, {gradcache::ChunkTokens{1}, 10}};
  for (const BertConfig::Pooling pooling : {BertConfig::Pooling::kMean, BertConfig::Pooling::kCls}) {
    for (const double dropout : {0.0, 0.25}) {
      BertConfig config = small_bert(dropout, dropout > 0);
      config.pooling = pooling;
      const BertSetup setup(config);
      const auto encode = [&](const TokenBatch& tokens) { return ops::l2_normalize(setup.bert(tokens)); };
      const std::vector<gradcache::Tower> towers{{"query", sentences(), encode},
                                                 {"document", TokenBatch::pad(documents), encode}};
      for (const auto& [cut, chunks] : expected) {
        gradcache::StepResult direct, cached;
        begin_random_step(1, 2);
        const gradcache::Comparison c = gradcache::compare_steps(
            [&] { return direct = gradcache::direct_step(towers, loss); },
            [&] { return cached = gradcache::cached_step(towers, loss, {.cut = cut}); }, setup.builder.parameters());
        BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << ", dropout " << dropout << ", " << chunks
                                      << " chunks") {
          BOOST_TEST(cached.chunks == chunks);
          BOOST_TEST(std::abs(c.loss_other - c.loss_reference) <= 1e-12);
          BOOST_TEST(c.relative_norm <= 1e-12);
          // Absolute, since the gradient of the key biases is rounding alone.
          for (const auto& p : c.parameters) BOOST_TEST(p.max_absolute <= 1e-12, p.name);
          BOOST_REQUIRE((direct.representations.size() == 2u && cached.representations.size() == 2u));
          for (std::size_t i = 0; i < 2; ++i) {
            BOOST_TEST(max_difference(cached.representations[i], direct.representations[i]) <= 1e-12);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(models_that_cannot_be_built) {
  const auto built = [](const std::function<void(BertConfig&)>& change) {
    BertConfig config = small_bert();
    change(config);
    Bert(Builder(1), config);
  };
  BOOST_CHECK_NO_THROW(built([](auto&) {}));
  for (const std::int64_t size : {0, -3}) {
    const auto refused = [&](const std::string& name, const std::function<void(BertConfig&)>& change) {
      BOOST_CHECK_EXCEPTION(built(change), ValueError, says({"bert", name + ' ' + std::to_string(size), "at least 1"}));
    };
    refused("vocabulary", [&](auto& c) { c.vocabulary = size; });
    refused("max_tokens", [&](auto& c) { c.max_tokens = size; });
    refused("types", [&](auto& c) { c.types = size; });
    refused(" width", [&](auto& c) { c.encoder.width = size; });
    refused("layers", [&](auto& c) { c.encoder.layers = size; });
    refused("heads", [&](auto& c) { c.encoder.heads = size; });
    refused("mlp_width", [&](auto& c) { c.encoder.mlp_width = size; });
  }
  BOOST_CHECK_EXCEPTION(built([](auto& c) { c.encoder.heads = 5; }), ValueError, says({"5 heads", "width of 12"}));
  for (const double p : {1.0, -0.1, std::numeric_limits<double>::quiet_NaN()}) {
    BOOST_CHECK_EXCEPTION(built([&](auto& c) { c.encoder.dropout = p; }), ValueError, says({"dropout"}));
    BOOST_CHECK_EXCEPTION(built([&](auto& c) { c.encoder.drop_path = p; }), ValueError, says({"drop"}));
  }
  BOOST_CHECK_EXCEPTION(TransformerBlock(Builder(1), {.width = 8, .heads = 3, .mlp_width = 8}, BlockStyle::bert()),
                        ValueError, says({"3 heads"}));
}

BOOST_AUTO_TEST_SUITE_END()
