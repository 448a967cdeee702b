#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "captions.h"
#include "emoji_source.h"
#include "tapecache/core/tensor.h"
#include "tapecache/data/word_tokenizer.h"
#include "tapecache/models/token_batch.h"

namespace clip_emoji {

inline constexpr int kImageSize = 32;
inline constexpr int kMaxTokens = 24;

/// The emoji pairs with their split, their captions as tokens and their groups as class numbers.
struct Dataset {
  std::vector<EmojiPair> pairs;
  std::vector<std::int64_t> train, held_out;  ///< indices into `pairs`
  std::vector<std::string> groups;
  std::vector<std::int64_t> group_of;  ///< by pair
  tapecache::data::WordTokenizer tokenizer;
};

/// Loads the pairs and holds out a tenth of them by base emoji. The vocabulary is that of the training captions.
std::shared_ptr<const Dataset> load_dataset(const EmojiPaths& paths, std::uint64_t seed);

/// Pictures of a batch, turned into numbers only when an encoder asks for them: a slice costs nothing.
class PictureBatch {
 public:
  /// With a step, each picture is moved by up to two pixels, drawn from (seed, step, pair).
  struct Shift {
    std::uint64_t seed;
    std::uint32_t step;
  };

  PictureBatch(std::shared_ptr<const Dataset> data, std::span<const std::int64_t> pairs, const Shift* shift = nullptr);

  std::int64_t size() const { return end_ - begin_; }
  PictureBatch slice(std::int64_t begin, std::int64_t end) const;
  /// [size, 3, kImageSize, kImageSize], samples in [-1, 1].
  tapecache::Tensor tensor(tapecache::DType dtype) const;

 private:
  struct Item {
    std::int64_t pair;
    int dx, dy;
  };
  std::shared_ptr<const Dataset> data_;
  std::shared_ptr<const std::vector<Item>> items_;
  std::int64_t begin_ = 0, end_ = 0;
};

/// The captions of the pairs as tokens, padded to the longest. In training each keyword is kept with probability 1/2,
/// drawn from (seed, step, pair).
tapecache::models::TokenBatch caption_batch(const Dataset& data, std::span<const std::int64_t> pairs,
                                            const PictureBatch::Shift* training = nullptr);

}  // namespace clip_emoji
