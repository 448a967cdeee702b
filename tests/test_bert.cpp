#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numbers>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "model_gradient_checks.h"
#include "naive_transformer.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/compare.h"
#include "tapecache/gradcache/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/text_transformer.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/pooling.h"

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

  std::vector<double> operator()(const std::vector<std::int32_t>& ids, std::vector<std::int32_t> types = {}) const {
    const TransformerConfig c(config_.encoder);
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
    return config_.pooling == BertPooling::kCls ? x.front() : mean(x);
  }

 private:
  BertConfig config_;
};

/// The sentences with their padding before them.
TokenBatch left_padded() {
  TokenBatch batch = TokenBatch::pad(kSentences, 10);
  for (std::size_t i = 0; i < kSentences.size(); ++i) {
    const auto row = static_cast<std::ptrdiff_t>(i) * batch.ids.size(1);
    const auto padding = batch.ids.size(1) - std::ssize(kSentences[i]);
    std::int32_t* ids = batch.ids.mutable_data<std::int32_t>() + row;
    bool* valid = batch.valid.mutable_data<bool>() + row;
    std::rotate(ids, ids + std::ssize(kSentences[i]), ids + batch.ids.size(1));
    std::fill(valid, valid + padding, false);
    std::fill(valid + padding, valid + batch.ids.size(1), true);
  }
  return batch;
}

const std::vector<std::vector<std::int32_t>> kSeconds{{9, 8}, {7, 7, 7}, {1}, {6, 5, 4, 3}, {2, 10}};

TokenBatch pairs() { return TokenBatch::pad_pairs(kSentences, kSeconds); }

}  // namespace

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
  const Setup setup;
  check_names(setup.builder.parameters(), expected);
}

BOOST_AUTO_TEST_CASE(computes_what_bert_computes) {
  for (const BertPooling pooling : {BertPooling::kMean, BertPooling::kCls}) {
    for (const double epsilon : {1e-12, 1e-3}) {  // the larger one shows where it goes
      BertConfig config = small_bert();
      config.pooling = pooling;
      config.encoder.epsilon = epsilon;
      const Setup setup(config);
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

BOOST_AUTO_TEST_CASE(padding_before_a_text_is_not_pooled) {
  for (const BertPooling pooling : {BertPooling::kMean, BertPooling::kCls}) {
    BertConfig config = small_bert();
    config.pooling = pooling;
    const Setup setup(config);
    const TokenBatch words = left_padded();
    const Tensor hidden = values_of([&] { return setup.bert.hidden_states(words); });
    const std::vector<double> found = doubles(values_of([&] { return setup.bert(words); }));
    for (std::int64_t i = 0; i < 5; ++i) {
      const std::int64_t count = std::ssize(kSentences[static_cast<std::size_t>(i)]);
      const std::vector<double> states = doubles(hidden.slice(i, i + 1));
      for (std::int64_t j = 0; j < 12; ++j) {
        double expected = 0;
        const std::int64_t pooled = pooling == BertPooling::kCls ? 1 : count;
        for (std::int64_t k = 0; k < pooled; ++k) expected += states[(5 - count + k) * 12 + j] / static_cast<double>(pooled);
        BOOST_TEST(std::abs(found[i * 12 + j] - expected) <= 1e-14, static_cast<int>(pooling) << ", sample " << i);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(positions_begin_behind_their_offset) {
  BertConfig config = small_bert();
  config.types = 1;
  config.position_offset = 2;
  for (const BertPooling pooling : {BertPooling::kMean, BertPooling::kCls}) {
    config.pooling = pooling;
    const Setup setup(config);
    BOOST_TEST((named(setup.builder.parameters(), "embeddings.position_embeddings.weight").value().shape() == Shape{8, 12}));
    const NaiveBert naive(setup.builder.parameters(), config);
    TokenBatch longest = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 2, 3, 4, 5, 6}});
    longest.valid = Tensor();
    BOOST_TEST(max_difference(doubles(values_of([&] { return setup.bert(longest); })), naive({1, 2, 3, 4, 5, 6})) <= 1e-12);
    // Counted over the valid tokens, wherever the padding is.
    for (const TokenBatch& words : {sentences(), left_padded()}) {
      const Tensor found = values_of([&] { return setup.bert(words); });
      for (std::size_t i = 0; i < kSentences.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i);
        BOOST_TEST(max_difference(doubles(found.slice(row, row + 1)), naive(kSentences[i])) <= 1e-12, "sentence " << i);
      }
    }
    check_gradients([&] { return setup.bert(left_padded()); }, setup.builder.parameters());
  }
}

BOOST_AUTO_TEST_CASE(an_offset_that_must_be_said) {
  BertConfig config = small_bert();
  config.types = 1;
  BOOST_CHECK_EXCEPTION(Bert(Builder(1), config), ValueError,
                        says({"types is 1", "position_offset", "2 for RoBERTa", "0 for BERT"}));
  config.position_offset = 0;
  BOOST_CHECK_NO_THROW(Bert(Builder(1), config));
  config.position_offset = -1;
  BOOST_CHECK_EXCEPTION(Bert(Builder(1), config), ValueError, says({"position_offset is -1", "at least 0"}));
}

BOOST_AUTO_TEST_CASE(types_tell_the_texts_of_a_pair) {
  const Setup setup;
  const NaiveBert naive(setup.builder.parameters(), setup.config);
  const TokenBatch batch = pairs();
  const Tensor found = values_of([&] { return setup.bert(batch); });
  for (std::size_t i = 0; i < kSentences.size(); ++i) {
    std::vector<std::int32_t> ids = kSentences[i], types(ids.size(), 0);
    ids.insert(ids.end(), kSeconds[i].begin(), kSeconds[i].end());
    types.resize(ids.size(), 1);
    const auto row = static_cast<std::int64_t>(i);
    const std::vector<double> one = doubles(found.slice(row, row + 1));
    BOOST_TEST(max_difference(one, naive(ids, types)) <= 1e-12, "pair " << i);
    BOOST_TEST(max_difference(one, naive(ids)) > 1e-3);
  }
  check_gradients([&] { return setup.bert(batch); }, setup.builder.parameters());
  TokenBatch wide = batch;
  wide.types = batch.types.to(DType::kInt64);
  BOOST_TEST(same_bits(values_of([&] { return setup.bert(wide); }), found));
}

BOOST_AUTO_TEST_CASE(types_are_cut_and_moved_with_their_tokens) {
  const Setup setup(small_bert(0.25));
  const auto encode = [&](const TokenBatch& tokens) { return ops::l2_normalize(setup.bert(tokens)); };
  const std::vector<gradcache::Tower> towers{{"pair", pairs(), encode}, {"text", sentences(), encode}};
  const gradcache::Loss loss = [](auto r) { return gradcache::info_nce(r[0], r[1]); };
  gradcache::StepOptions by_tokens;
  by_tokens.chunk_tokens = 8;
  for (const gradcache::StepOptions& options : {gradcache::StepOptions{{2}}, by_tokens}) {
    begin_random_step(1, 2);
    BOOST_TEST(gradcache::compare(towers, loss, options, setup.builder.parameters()).relative_norm <= 1e-12);
  }
  const TokenBatch batch = pairs();
  const std::uint64_t before = batch.version();
  Tensor(batch.types).fill(0);
  BOOST_TEST(batch.version() != before);
}

BOOST_AUTO_TEST_CASE(types_that_do_not_fit) {
  const Setup setup;
  TokenBatch batch = pairs();
  batch.types = Tensor::full(batch.ids.shape(), 2, DType::kInt32);
  BOOST_CHECK_EXCEPTION(setup.bert(batch), ValueError, says({"2"}));
  batch.types = Tensor::full({5, 2}, 0, DType::kInt32);
  BOOST_CHECK_EXCEPTION(setup.bert(batch), ShapeError, says({"bert", "types", "[5, 2]", "[5, 6]"}));
  BOOST_CHECK_EXCEPTION(batch.slice(0, 1), ShapeError, says({"types", "[5, 2]", "[5, 6]"}));
  batch.types = Tensor::zeros(batch.ids.shape());
  BOOST_CHECK_THROW(setup.bert(batch), DTypeError);
  BOOST_CHECK_EXCEPTION(TextTransformer(Builder(1, DType::kFloat64), small_text())(pairs()), ValueError,
                        says({"text transformer", "types", "none"}));
  BOOST_CHECK_EXCEPTION(TokenBatch::pad_pairs(kSentences, std::span(kSeconds).first(4)), ValueError,
                        says({"5 first and 4 second"}));
}

BOOST_AUTO_TEST_CASE(hidden_states_are_what_is_pooled) {
  const Setup setup;
  const TokenBatch words = sentences();
  const Tensor hidden = values_of([&] { return setup.bert.hidden_states(words); });
  BOOST_TEST((hidden.shape() == Shape{5, 5, setup.config.encoder.width}));
  BOOST_TEST(same_bits(values_of([&] { return ops::mean_pool(hidden, words.valid); }),
                       values_of([&] { return setup.bert(words); })));
}

BOOST_AUTO_TEST_CASE(gradients_of_a_block) {
  const TokenBatch padded = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 1, 1}, {1}, {1, 1, 1, 1}});
  for (const Tensor& valid : {Tensor(), padded.valid}) {
    for (const double dropout : {0.0, 0.25}) {
      BertEncoderConfig config = small_bert(dropout).encoder;
      config.drop_path = dropout;
      const Builder builder(3, DType::kFloat64);
      const BertBlock block(builder, config);
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
  for (const BertPooling pooling : {BertPooling::kMean, BertPooling::kCls}) {
    for (const double dropout : {0.0, 0.25}) {
      BertConfig config = small_bert(dropout);
      config.pooling = pooling;
      const Setup setup(config);
      const TokenBatch tokens = sentences();
      BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << ", dropout " << dropout) {
        check_gradients([&] { return begin_random_step(1, 2), setup.bert(tokens); }, setup.builder.parameters());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(padding_changes_no_representation) {
  for (const BertPooling pooling : {BertPooling::kMean, BertPooling::kCls}) {
    BertConfig config = small_bert();
    config.pooling = pooling;
    const Setup setup(config);
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
    const Setup plain(small_bert(dropout)), checkpointed(small_bert(dropout, true));
    std::vector<Tensor> values;
    for (const Setup* setup : {&plain, &checkpointed}) {
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
  const gradcache::Loss loss = [](auto r) { return gradcache::info_nce(r[0], r[1]); };
  gradcache::StepOptions by_tokens, one_by_one;
  by_tokens.chunk_tokens = 8;
  one_by_one.chunk_tokens = 1;
  for (const BertPooling pooling : {BertPooling::kMean, BertPooling::kCls}) {
    for (const double dropout : {0.0, 0.25}) {
      BertConfig config = small_bert(dropout, dropout > 0);
      config.pooling = pooling;
      const Setup setup(config);
      const auto encode = [&](const TokenBatch& tokens) { return ops::l2_normalize(setup.bert(tokens)); };
      const std::vector<gradcache::Tower> towers{{"query", sentences(), encode},
                                                 {"document", TokenBatch::pad(documents), encode}};
      for (const gradcache::StepOptions& options : {gradcache::StepOptions{{2}}, by_tokens, one_by_one}) {
        gradcache::StepResult direct, cached;
        begin_random_step(1, 2);
        const gradcache::Comparison c =
            gradcache::compare_steps([&] { return direct = gradcache::direct_step(towers, loss); },
                                     [&] { return cached = gradcache::cached_step(towers, loss, options); },
                                     setup.builder.parameters());
        BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << ", dropout " << dropout << ", "
                                      << options.chunk_tokens << " tokens") {
          BOOST_TEST(cached.chunks == (options.chunk_tokens == 1 ? 10 : 6));
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
  BOOST_CHECK_EXCEPTION(BertBlock(Builder(1), {.width = 8, .heads = 3, .mlp_width = 8}), ValueError, says({"3 heads"}));
}

BOOST_AUTO_TEST_CASE(tokens_that_do_not_fit) {
  const Setup setup;
  const auto bert = [&](const TokenBatch& tokens) { return values_of([&] { return setup.bert(tokens); }); };
  const auto ids = [](const std::vector<std::int32_t>& values) {
    return Tensor::from(values, {1, static_cast<std::int64_t>(values.size())});
  };
  BOOST_CHECK_NO_THROW(bert({ids({0, 1, 2, 3, 4, 10}), {}}));
  BOOST_CHECK_EXCEPTION(bert({ids({1, 2, 3, 4, 5, 6, 7}), {}}), ShapeError, says({"bert", "[1, 7]", "1 to 6 tokens"}));
  BOOST_CHECK_EXCEPTION(bert({ids({}), {}}), ShapeError, says({"bert", "[1, 0]", "1 to 6 tokens"}));
  BOOST_CHECK_EXCEPTION(bert({ids({1, 2, 11}), {}}), ValueError,
                        says({"bert: token 2 of sample 0 is 11", "from 0 to 10"}));
  BOOST_CHECK_EXCEPTION(bert({ids({-1, 2}), {}}), ValueError, says({"bert: token 0 of sample 0 is -1"}));
  BOOST_CHECK_EXCEPTION(bert({Tensor::zeros({1, 2}), {}}), DTypeError, says({"bert", "float32"}));
  BOOST_CHECK_EXCEPTION(bert({ids({1, 2}), Tensor::full({1, 3}, 1, DType::kBool)}), ShapeError,
                        says({"bert", "[1, 3]", "[1, 2]"}));
  BOOST_CHECK_EXCEPTION(bert({ids({1, 2}), Tensor::zeros({1, 2}, DType::kBool)}), ValueError,
                        says({"bert", "sample 0", "no valid token"}));
}

BOOST_AUTO_TEST_SUITE_END()
