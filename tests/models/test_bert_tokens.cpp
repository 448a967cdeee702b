// Padding, positions and token types: what of its tokens a BERT reads, and which it refuses.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "bert_checks.h"
#include "model_gradient_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/normalize.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

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

BOOST_AUTO_TEST_SUITE(bert_tokens)

BOOST_AUTO_TEST_CASE(padding_before_a_text_is_not_pooled) {
  for (const BertConfig::Pooling pooling : {BertConfig::Pooling::kMean, BertConfig::Pooling::kCls}) {
    BertConfig config = small_bert();
    config.pooling = pooling;
    const BertSetup setup(config);
    const TokenBatch words = left_padded();
    const Tensor hidden = values_of([&] { return setup.bert.hidden_states(words); });
    const std::vector<double> found = doubles(values_of([&] { return setup.bert(words); }));
    for (std::int64_t i = 0; i < 5; ++i) {
      const std::int64_t count = std::ssize(kSentences[static_cast<std::size_t>(i)]);
      const std::vector<double> states = doubles(hidden.slice(i, i + 1));
      for (std::int64_t j = 0; j < 12; ++j) {
        double expected = 0;
        const std::int64_t pooled = pooling == BertConfig::Pooling::kCls ? 1 : count;
        for (std::int64_t k = 0; k < pooled; ++k)
          expected += states[(5 - count + k) * 12 + j] / static_cast<double>(pooled);
        BOOST_TEST(std::abs(found[i * 12 + j] - expected) <= 1e-14, static_cast<int>(pooling) << ", sample " << i);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(positions_begin_behind_their_offset) {
  BertConfig config = small_bert();
  config.types = 1;
  config.position_offset = 2;
  for (const BertConfig::Pooling pooling : {BertConfig::Pooling::kMean, BertConfig::Pooling::kCls}) {
    config.pooling = pooling;
    const BertSetup setup(config);
    BOOST_TEST(
        (named(setup.builder.parameters(), "embeddings.position_embeddings.weight").value().shape() == Shape{8, 12}));
    const NaiveBert naive(setup.builder.parameters(), config);
    TokenBatch longest = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 2, 3, 4, 5, 6}});
    longest.valid = Tensor();
    BOOST_TEST(max_difference(doubles(values_of([&] { return setup.bert(longest); })), naive({1, 2, 3, 4, 5, 6})) <=
               1e-12);
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
  const BertSetup setup;
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
  const BertSetup setup(small_bert(0.25));
  const auto encode = [&](const TokenBatch& tokens) { return ops::l2_normalize(setup.bert(tokens)); };
  const std::vector<gradcache::Tower> towers{{"pair", pairs(), encode}, {"text", sentences(), encode}};
  const gradcache::Loss loss = [](auto r) { return losses::info_nce(r[0], r[1]); };
  gradcache::StepOptions by_tokens;
  by_tokens.cut = gradcache::ChunkTokens{8};
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
  const BertSetup setup;
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

BOOST_AUTO_TEST_CASE(tokens_that_do_not_fit) {
  const BertSetup setup;
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
