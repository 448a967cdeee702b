#include <algorithm>
#include <functional>
#include <numeric>

#include "../../demos/clip_emoji/emoji_source.h"
#include "../timing.h"
#include "measurements.h"
#include "tapecache/data/word_tokenizer.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/normalize.h"

namespace gradcache_bench {

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;

namespace {

std::string keywords_of(const clip_emoji::EmojiPair& pair) {
  std::string all;
  for (const std::string& keyword : pair.keywords) all += (all.empty() ? "" : " ") + keyword;
  return all.empty() ? pair.name : all;
}

models::TokenBatch tokens_of(const data::WordTokenizer& tokenizer, const std::vector<std::string>& texts) {
  std::vector<std::vector<std::int32_t>> sequences;
  for (const std::string& text : texts) sequences.push_back(tokenizer.encode(text, 256));
  return models::TokenBatch::pad(sequences);
}

}  // namespace

Lengths measure_lengths(const Effort& effort) {
  std::vector<std::string> names, keywords, all;
  const std::vector<clip_emoji::EmojiPair> pairs = clip_emoji::load_emoji({}, 1);
  const std::size_t count = std::min(pairs.size(), static_cast<std::size_t>(4 * effort.batch));
  for (std::size_t i = 0; i < count; ++i) {
    // From all over the list.
    const clip_emoji::EmojiPair& pair = pairs[i * pairs.size() / count];
    names.push_back(pair.name);
    keywords.push_back(keywords_of(pair));
  }
  all.insert(all.end(), names.begin(), names.end());
  all.insert(all.end(), keywords.begin(), keywords.end());
  const auto tokenizer = data::WordTokenizer::build(all, 3);
  const models::TokenBatch name_tokens = tokens_of(tokenizer, names), keyword_tokens = tokens_of(tokenizer, keywords);
  const std::vector<std::int64_t> lengths = keyword_tokens.lengths();
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());

  models::Builder builder(1);
  const models::TextTransformer tower(
      builder, {.vocabulary = tokenizer.vocabulary_size(),
                .max_tokens = longest,
                .causal = false,
                .pooling = models::TextConfig::Pooling::kMean,
                .encoder = {.width = 64, .layers = 3, .heads = 4, .mlp_width = 256, .dropout = 0.1}});
  const auto encode = [&](const models::TokenBatch& tokens) { return ops::l2_normalize(tower(tokens)); };
  const std::vector<Tower> towers{{"names", name_tokens, encode}, {"keywords", keyword_tokens, encode}};
  const Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1]); };
  constexpr std::int64_t kChunk = 32;
  StepOptions padded{{kChunk}}, by_tokens;
  by_tokens.cut = ChunkTokens{kChunk * longest};  // what a padded chunk takes
  const auto run = [&](const StepOptions& options) {
    return [&] {
      cached_step(towers, loss, options);
      for (Parameter p : builder.parameters()) p.clear_gradient();
    };
  };
  const std::vector<std::function<void()>> runs{run(padded), run(by_tokens)};
  const Timings timings = time_in_turn(runs, std::max(3, effort.rounds / 2));
  const double total = std::accumulate(lengths.begin(), lengths.end(), 0.0);
  return {count, longest, total / static_cast<double>(count), timings.ratio(0, 1)};
}

}  // namespace gradcache_bench
