#include <algorithm>
#include <numeric>
#include <vector>

#include "gradcache_checks.h"
#include "small_model.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

using Sequences = std::vector<std::vector<std::int32_t>>;

models::TextConfig text_config(models::TextConfig::Pooling pooling, double dropout) {
  return {.vocabulary = 30,
          .max_tokens = 20,
          .causal = pooling == models::TextConfig::Pooling::kLastToken,
          .pooling = pooling,
          .encoder = {.width = 8, .layers = 2, .heads = 2, .mlp_width = 16, .dropout = dropout}};
}

models::TokenBatch sentences(std::int64_t count) {
  Sequences words;
  for (std::int64_t i = 0; i < count; ++i) {
    std::vector<std::int32_t> sentence(static_cast<std::size_t>(1 + i * 11 % 20));
    for (std::size_t t = 0; t < sentence.size(); ++t) sentence[t] = static_cast<std::int32_t>((i + 3 * t) % 30);
    words.push_back(std::move(sentence));
  }
  return models::TokenBatch::pad(words);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_tokens)

BOOST_AUTO_TEST_CASE(lengths_and_selections_of_token_batches) {
  const models::TokenBatch batch = models::TokenBatch::pad(Sequences{{1, 2, 3, 4}, {5}, {6, 7}}, 9);
  BOOST_TEST((batch.lengths() == std::vector<std::int64_t>{4, 1, 2}));
  const models::TokenBatch chosen = batch.select(std::vector<std::int64_t>{2, 1, 2});
  check_equal(chosen.ids, {6, 7, 5, 9, 6, 7});
  check_equal(chosen.valid, {1, 1, 1, 0, 1, 1});
  const models::TokenBatch unmasked{batch.ids, {}};
  BOOST_TEST((unmasked.lengths() == std::vector<std::int64_t>{4, 4, 4}));
  check_equal(unmasked.select(std::vector<std::int64_t>{1}).ids, {5, 9, 9, 9});
}

BOOST_AUTO_TEST_CASE(chunks_by_tokens_equal_the_padded_batch) {
  for (const auto pooling : {models::TextConfig::Pooling::kLastToken, models::TextConfig::Pooling::kMean}) {
    for (const double dropout : {0.0, 0.3}) {
      models::Builder builder(5, DType::kFloat64);
      const models::TextTransformer tower(builder, text_config(pooling, dropout));
      const Encoder other(1, DType::kFloat64, dropout, 5, 7, 8);
      const models::TokenBatch batch = sentences(27);
      std::vector<std::int64_t> widths;
      const auto encode = [&](const models::TokenBatch& tokens) {
        widths.push_back(tokens.ids.size(1));
        return ops::l2_normalize(tower(tokens));
      };
      const std::vector<Tower> towers{{"text", batch, encode}, {"other", random_values({27, 5}, 6), other}};
      const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
      for (const std::int64_t tokens : {1, 13, 40, 100, 10000}) {
        StepOptions options{.cut = ChunkTokens{tokens, {5}}};
        BOOST_TEST_CONTEXT(tokens << " tokens, dropout " << dropout) {
          const Comparison c = compare(towers, loss, options);
          BOOST_TEST(c.relative_norm <= 1e-12);
          begin_random_step(1, 1);
          const StepResult direct = direct_step(towers, loss);
          begin_random_step(1, 1);
          const StepResult cached = cached_step(towers, loss, options);
          // In batch order.
          for (std::size_t i = 0; i < 2; ++i) {
            BOOST_TEST(max_difference(cached.representations[i], direct.representations[i]) <= 1e-13);
          }
        }
      }
      widths.clear();
      StepOptions options{.cut = ChunkTokens{40, {5}}};
      cached_step(towers, loss, options);
      BOOST_TEST(widths.front() < 8);
      BOOST_TEST(*std::max_element(widths.begin(), widths.end()) == 20);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_tuple_is_cut_by_the_lengths_in_it) {
  models::Builder builder(5, DType::kFloat64);
  const models::TextTransformer tower(builder, text_config(models::TextConfig::Pooling::kMean, 0.2));
  const models::TokenBatch batch = sentences(14);
  const Tensor weights = random_values({14, 1}, 4);
  const auto encode = [&](const models::TokenBatch& tokens, const Tensor& weight) {
    return ops::multiply(tower(tokens), weight);
  };
  const std::vector<Tower> towers{{"text", std::tuple(batch, weights), encode}};
  const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], ops::tanh(r[0])); };
  StepOptions options;
  options.cut = ChunkTokens{30};
  BOOST_TEST(compare(towers, loss, options).relative_norm <= 1e-12);
}

BOOST_AUTO_TEST_CASE(a_budget_and_tokens_together) {
  const SmallModel model(64);
  const std::vector<Tower> towers = model.towers();
  const std::size_t base = allocator().stats().current;
  StepOptions options;
  options.cut = MemoryBudget{base + 1500000, 60};
  check_close(compare(towers, model.loss(), options), 1e-5);
  const StepResult result = cached_step(towers, model.loss(), options);
  BOOST_TEST(result.peak_bytes <= base + 1500000);
  for (Parameter p : model.clip.parameters()) p.clear_gradient();
}

BOOST_AUTO_TEST_CASE(running_out_halves_the_tokens_too) {
  const SmallModel model(64);
  const std::vector<Tower> towers = model.towers();
  StepOptions small{.cut = ChunkTokens{24, {4}}};
  const std::size_t room = cached_step(towers, model.loss(), small).peak_bytes;
  for (Parameter p : model.clip.parameters()) p.clear_gradient();
  StepOptions large{.cut = ChunkTokens{10000, {4}}};
  const MemoryLimit limit(room + room / 10);
  BOOST_CHECK_THROW(cached_step(towers, model.loss(), large), OutOfMemory);
  large.retry_smaller_chunks = true;
  const StepResult result = cached_step(towers, model.loss(), large);
  BOOST_TEST(result.retries > 0);
  for (Parameter p : model.clip.parameters()) p.clear_gradient();
}

BOOST_AUTO_TEST_CASE(what_ran_out_once_is_cut_smaller_from_then_on) {
  const SmallModel model(64);
  const std::vector<Tower> towers = model.towers();
  const auto clear = [&] {
    for (Parameter p : model.clip.parameters()) p.clear_gradient();
  };
  const std::size_t by_tokens = cached_step(towers, model.loss(), {.cut = ChunkTokens{24, {4}}}).peak_bytes;
  clear();
  const std::size_t by_count = cached_step(towers, model.loss(), {.cut = {4}}).peak_bytes;
  clear();
  for (const auto& [cut, room] :
       {std::pair<Cut, std::size_t>{ChunkTokens{10000, {4}}, by_tokens}, {ChunkSizes{64}, by_count}}) {
    GradCache cache(model.loss(), {.cut = cut, .retry_smaller_chunks = true});
    const MemoryLimit limit(room + room / 10);
    std::vector<std::int64_t> fitting;
    {  // whose representations would take of the room of the second step
      const StepResult first = cache.step(towers);
      BOOST_TEST(first.retries > 0);
      fitting = first.largest_chunks;
    }
    clear();
    const StepResult second = cache.step(towers);
    BOOST_TEST(second.retries == 0);
    BOOST_TEST(second.largest_chunks == fitting, boost::test_tools::per_element());
    clear();
  }
}

BOOST_AUTO_TEST_CASE(several_inputs_without_lengths_are_cut_by_count) {
  const ClipSetup setup(9);
  const auto encode = [&](const Tensor& a, const Tensor& b) { return ops::add(setup.image(a), setup.image(b)); };
  const std::vector<Tower> towers{{"pair", std::tuple(setup.images, setup.texts), encode},
                                  {"text", setup.texts, setup.text}};
  BOOST_TEST(towers[0].lengths().empty());
  StepOptions options{.cut = ChunkTokens{6, {4}}};
  check_equal(compare(towers, setup.loss(), options), 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
