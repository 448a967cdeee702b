#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "model_checks.h"
#include "tapecache/core/error.h"
#include "tapecache/models/clip.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(model_samples)

BOOST_AUTO_TEST_CASE(permuting_samples_permutes_representations) {
  const std::vector<std::size_t> order{3, 0, 4, 1, 2};
  const Clip clip(small_clip(), 2, DType::kFloat64);
  shake(clip.parameters(), 500);
  const Tensor images = small_images(5);
  std::vector<double> moved;
  std::vector<std::vector<std::int32_t>> moved_sentences;
  for (const std::size_t i : order) {
    const auto row = static_cast<std::int64_t>(i);
    const std::vector<double> image = doubles(images.slice(row, row + 1));
    moved.insert(moved.end(), image.begin(), image.end());
    moved_sentences.push_back(kSentences[i]);
  }
  const Tensor image = values_of([&] { return clip.encode_image(images); });
  const Tensor text = values_of([&] { return clip.encode_text(sentences()); });
  const Tensor moved_image = values_of([&] { return clip.encode_image(Tensor::from(moved, images.shape())); });
  const Tensor moved_text = values_of([&] { return clip.encode_text(TokenBatch::pad(moved_sentences)); });
  for (std::size_t k = 0; k < order.size(); ++k) {
    const auto from = static_cast<std::int64_t>(order[k]), to = static_cast<std::int64_t>(k);
    BOOST_TEST(max_difference(moved_image.slice(to, to + 1), image.slice(from, from + 1)) <= 1e-12);
    BOOST_TEST(max_difference(moved_text.slice(to, to + 1), text.slice(from, from + 1)) <= 1e-12);
    // and different samples have different representations
    const std::int64_t other = (from + 1) % 5;
    BOOST_TEST(max_difference(moved_image.slice(to, to + 1), image.slice(other, other + 1)) > 1e-3);
    BOOST_TEST(max_difference(moved_text.slice(to, to + 1), text.slice(other, other + 1)) > 1e-3);
  }
}

BOOST_AUTO_TEST_CASE(representations_have_length_one) {
  const Clip clip(small_clip(), 2, DType::kFloat64);
  for (const Tensor& r : {values_of([&] { return clip.encode_image(small_images(5)); }),
                          values_of([&] { return clip.encode_text(sentences()); })}) {
    BOOST_TEST((r.shape() == Shape{5, 5}));
    for (std::int64_t i = 0; i < 5; ++i) {
      double squares = 0;
      for (const double v : doubles(r.slice(i, i + 1))) squares += v * v;
      BOOST_TEST(std::abs(squares - 1) <= 1e-12);
    }
  }
}

BOOST_AUTO_TEST_CASE(padding_changes_no_representation) {
  for (const TextConfig::Pooling pooling : {TextConfig::Pooling::kLastToken, TextConfig::Pooling::kMean}) {
    for (const bool causal : {true, false}) {
      TextConfig config = small_text();
      config.pooling = pooling;
      config.causal = causal;
      const Builder builder(7, DType::kFloat64);
      const TextTransformer text(builder, config);
      shake(builder.parameters(), 600);
      BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << (causal ? ", causal" : "")) {
        for (const std::int32_t pad_id : {0, 9}) {
          const Tensor together = values_of([&] { return text(TokenBatch::pad(kSentences, pad_id, 6)); });
          for (std::size_t i = 0; i < kSentences.size(); ++i) {
            TokenBatch alone = TokenBatch::pad(std::span(&kSentences[i], 1));
            alone.valid = Tensor();
            const auto row = static_cast<std::int64_t>(i);
            BOOST_TEST(max_difference(together.slice(row, row + 1), values_of([&] { return text(alone); })) <= 1e-12);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(later_tokens_do_not_reach_earlier_ones_under_the_causal_mask) {
  const Builder builder(8, DType::kFloat64);
  const TransformerEncoder encoder(builder, {.width = 8, .layers = 3, .heads = 2, .mlp_width = 16});
  shake(builder.parameters(), 700);
  Tensor x = random_values({2, 5, 8}, 1), y = x.clone();
  for (std::int64_t sample = 0; sample < 2; ++sample) {
    // Token 3, unevenly: a norm would undo an equal shift of all its elements.
    for (std::int64_t j = 0; j < 8; ++j) y.mutable_data<double>()[(sample * 5 + 3) * 8 + j] += j % 3 == 0 ? 1 : 0;
  }
  for (const bool causal : {true, false}) {
    const Tensor before = values_of([&] { return encoder(x, {.causal = causal, .valid = {}}); });
    const Tensor after = values_of([&] { return encoder(y, {.causal = causal, .valid = {}}); });
    for (std::int64_t sample = 0; sample < 2; ++sample) {
      for (std::int64_t token = 0; token < 5; ++token) {
        const Tensor a = before.slice(sample, sample + 1).reshape({5, 8}).slice(token, token + 1);
        const Tensor b = after.slice(sample, sample + 1).reshape({5, 8}).slice(token, token + 1);
        BOOST_TEST_CONTEXT("causal " << causal << ", token " << token) {
          if (causal && token < 3) BOOST_TEST(max_difference(a, b) <= 1e-14);
          else BOOST_TEST(max_difference(a, b) > 1e-6);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(the_first_end_of_text_is_pooled) {
  TextConfig config = small_text();
  config.pooling = TextConfig::Pooling::kEndOfText;
  const Builder builder(8, DType::kFloat64);
  const TextTransformer text(builder, config);
  shake(builder.parameters(), 700);
  const auto pooled = [&](const std::vector<std::int32_t>& ids, const std::vector<bool>& valid = {}) {
    const Shape shape{1, std::ssize(ids)};
    const TokenBatch batch{Tensor::from(ids, shape), valid.empty() ? Tensor() : Tensor::from(valid, shape)};
    return values_of([&] { return text(batch); });
  };
  // As the last of the tokens, padded with it or with another, with and without a mask.
  const Tensor expected = pooled({7, 1, 10});
  BOOST_TEST(max_difference(pooled({7, 1, 10, 10, 10}), expected) <= 1e-14);
  BOOST_TEST(max_difference(pooled({7, 1, 10, 0, 0}), expected) <= 1e-14);
  BOOST_TEST(max_difference(pooled({7, 1, 10, 10, 10}, {true, true, true, false, false}), expected) <= 1e-14);
  BOOST_TEST(max_difference(pooled({7, 1, 10, 2}), expected) <= 1e-14);
  // Not in the padding before a text.
  const Tensor states = values_of([&] {
    return text.hidden_states({Tensor::from({10, 10, 7, 1, 10}, {1, 5}),
                               Tensor::from(std::vector<bool>{false, false, true, true, true}, {1, 5})});
  });
  BOOST_TEST(max_difference(pooled({10, 10, 7, 1, 10}, {false, false, true, true, true}),
                            states.reshape({5, 12}).slice(4, 5)) <= 1e-14);

  config.end_of_text = 3;
  const Builder other(8, DType::kFloat64);
  const TextTransformer third(other, config);
  shake(other.parameters(), 700);
  BOOST_TEST(max_difference(values_of([&] {
                              return third({Tensor::from({7, 1, 3, 10}, {1, 4}), {}});
                            }),
                            values_of([&] {
                              return third({Tensor::from({7, 1, 3}, {1, 3}), {}});
                            })) <= 1e-14);
  const auto run_text = [&](bool checkpoint) {
    config.encoder.checkpoint = checkpoint;
    const Builder own(8, DType::kFloat64);
    const TextTransformer tower(own, config);
    run_backward([&] { return tower({Tensor::from({7, 3, 3, 10, 1, 3}, {2, 3}), {}}); });
    return own.parameters();
  };
  const std::vector<Parameter> plain = run_text(false), checkpointed = run_text(true);
  for (std::size_t i = 0; i < plain.size(); ++i) BOOST_TEST(same_bits(plain[i].gradient(), checkpointed[i].gradient()));
}

BOOST_AUTO_TEST_CASE(a_text_without_its_end_is_refused) {
  TextConfig config = small_text();
  config.pooling = TextConfig::Pooling::kEndOfText;
  const TextTransformer text(Builder(1), config);
  const Tensor ids = Tensor::from({1, 10, 10, 4, 2, 3}, {3, 2});
  BOOST_CHECK_EXCEPTION(text({ids, {}}), ValueError, says({"sample 2", "no end-of-text token, 10", "kLastToken"}));
  const Tensor valid = Tensor::from(std::vector<bool>{true, true, false, true, true, true}, {3, 2});
  BOOST_CHECK_EXCEPTION(text({ids, valid}), ValueError, says({"sample 1"}));
  for (const std::int64_t id : {-1, 11}) {
    config.end_of_text = id;
    BOOST_CHECK_EXCEPTION(TextTransformer(Builder(1), config), ValueError,
                          says({"end_of_text is " + std::to_string(id), "from 0 to 10"}));
  }
}

BOOST_AUTO_TEST_CASE(tokens_after_the_pooled_one_do_not_reach_it) {
  const Builder builder(8, DType::kFloat64);
  const TextTransformer text(builder, small_text());
  shake(builder.parameters(), 700);
  // Token 1 is pooled; the valid token before it is seen, the others are not.
  const auto pooled = [&](const std::vector<std::int32_t>& ids, const std::vector<double>& valid) {
    const TokenBatch batch{Tensor::from(ids, {1, 4}), Tensor::from(valid, {1, 4}).to(DType::kBool)};
    return values_of([&] { return text(batch); });
  };
  const Tensor reference = pooled({1, 2, 3, 4}, {1, 1, 0, 0});
  BOOST_TEST(max_difference(pooled({1, 2, 8, 7}, {1, 1, 0, 0}), reference) <= 1e-14);
  BOOST_TEST(max_difference(pooled({5, 2, 3, 4}, {1, 1, 0, 0}), reference) > 1e-6);
  BOOST_TEST(max_difference(pooled({1, 2, 3, 4}, {0, 1, 0, 0}), reference) > 1e-6);
  BOOST_TEST(max_difference(pooled({1, 2, 3, 4}, {1, 1, 1, 1}), reference) > 1e-6);
  BOOST_TEST(max_difference(pooled({1, 2, 3, 4}, {1, 1, 1, 0}), pooled({1, 2, 3, 9}, {1, 1, 1, 0})) <= 1e-14);
}

BOOST_AUTO_TEST_CASE(token_batches_pad_and_slice) {
  const TokenBatch batch = TokenBatch::pad(kSentences, 7, 6);
  BOOST_TEST(batch.size() == 5);
  BOOST_TEST((batch.ids.shape() == Shape{5, 6}));
  check_equal(batch.ids.slice(0, 2), {1, 4, 2, 7, 7, 7, 3, 7, 7, 7, 7, 7});
  check_equal(batch.valid.slice(0, 2), {1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0});
  check_equal(batch.slice(1, 3).ids, {3, 7, 7, 7, 7, 7, 5, 6, 7, 8, 9, 7});
  check_equal(batch.slice(1, 3).valid, {1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0});
  BOOST_TEST((sentences().ids.shape() == Shape{5, 5}));
  BOOST_TEST(!(TokenBatch{batch.ids, {}}.slice(1, 2).valid.defined()));
  BOOST_CHECK_THROW(TokenBatch::pad({}), ValueError);
  BOOST_CHECK_EXCEPTION(TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1}, {}}), ValueError,
                        says({"sequence 1", "empty"}));
  BOOST_TEST((TokenBatch::pad(kSentences, 0, 1, 5).ids.shape() == Shape{5, 5}));
  BOOST_CHECK_EXCEPTION(TokenBatch::pad(kSentences, 0, 1, 4), ShapeError,
                        says({"sequence 2", "5 tokens", "at most 4"}));
  BOOST_CHECK_EXCEPTION(TokenBatch::pad(kSentences, 0, 7, 6), ValueError, says({"min_tokens is 7"}));
  BOOST_CHECK_THROW(batch.slice(3, 6), ShapeError);
}

BOOST_AUTO_TEST_SUITE_END()
