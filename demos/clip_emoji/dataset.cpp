#include "dataset.h"

#include <algorithm>

#include "tapecache/core/random.h"

namespace clip_emoji {

namespace {

// Call numbers of the data's own draws, beyond those that a step's layers take.
constexpr std::uint32_t kShiftCall = 0x80000000;
constexpr std::uint32_t kKeywordCall = 0x80000001;
constexpr int kMaxShift = 2;

}  // namespace

std::shared_ptr<const Dataset> load_dataset(const EmojiPaths& paths, std::uint64_t seed) {
  std::vector<EmojiPair> pairs = load_emoji(paths, kImageSize);
  const Split split = split_by_base(pairs, 0.1, seed);
  std::vector<std::string> texts;
  for (std::size_t i : split.train) texts.push_back(caption(pairs[i]));

  std::vector<std::string> groups;
  std::vector<std::int64_t> group_of;
  for (const EmojiPair& pair : pairs) {
    auto at = std::find(groups.begin(), groups.end(), pair.group);
    if (at == groups.end()) at = groups.insert(at, pair.group);
    group_of.push_back(at - groups.begin());
  }
  return std::make_shared<const Dataset>(Dataset{std::move(pairs),
                                                 {split.train.begin(), split.train.end()},
                                                 {split.held_out.begin(), split.held_out.end()},
                                                 std::move(groups),
                                                 std::move(group_of),
                                                 tapecache::data::WordTokenizer::build(texts, 2)});
}

PictureBatch::PictureBatch(std::shared_ptr<const Dataset> data, std::span<const std::int64_t> pairs, const Shift* shift)
    : data_(std::move(data)), end_(static_cast<std::int64_t>(pairs.size())) {
  std::vector<Item> items;
  for (std::int64_t pair : pairs) {
    Item item{pair, 0, 0};
    if (shift) {
      const auto words =
          tapecache::RandomKey{shift->seed, shift->step, kShiftCall}.draw(static_cast<std::uint32_t>(pair), 0);
      item.dx = static_cast<int>(words[0] % (2 * kMaxShift + 1)) - kMaxShift;
      item.dy = static_cast<int>(words[1] % (2 * kMaxShift + 1)) - kMaxShift;
    }
    items.push_back(item);
  }
  items_ = std::make_shared<const std::vector<Item>>(std::move(items));
}

PictureBatch PictureBatch::slice(std::int64_t begin, std::int64_t end) const {
  PictureBatch part = *this;
  part.begin_ = begin_ + begin;
  part.end_ = begin_ + end;
  return part;
}

tapecache::Tensor PictureBatch::tensor(tapecache::DType dtype) const {
  constexpr std::int64_t kPlane = kImageSize * kImageSize;
  tapecache::Tensor result = tapecache::Tensor::empty({size(), 3, kImageSize, kImageSize}, dtype);
  tapecache::dispatch_floating("pictures", dtype, [&]<class T>() {
    T* to = result.mutable_data<T>();
    for (std::int64_t i = begin_; i < end_; ++i, to += 3 * kPlane) {
      const Item& item = (*items_)[static_cast<std::size_t>(i)];
      const std::uint8_t* rgb = data_->pairs[static_cast<std::size_t>(item.pair)].rgb.data();
      for (int y = 0; y < kImageSize; ++y) {
        for (int x = 0; x < kImageSize; ++x) {
          const int from_x = x - item.dx, from_y = y - item.dy;
          const bool inside = from_x >= 0 && from_x < kImageSize && from_y >= 0 && from_y < kImageSize;
          for (int c = 0; c < 3; ++c) {
            const int sample = inside ? rgb[(from_y * kImageSize + from_x) * 3 + c] : 255;
            to[c * kPlane + y * kImageSize + x] = static_cast<T>(sample) / T{127.5} - T{1};
          }
        }
      }
    }
  });
  return result;
}

tapecache::models::TokenBatch caption_batch(const Dataset& data, std::span<const std::int64_t> pairs,
                                            const PictureBatch::Shift* training) {
  std::vector<std::vector<std::int32_t>> tokens;
  for (std::int64_t index : pairs) {
    const EmojiPair& pair = data.pairs[static_cast<std::size_t>(index)];
    if (!training) {
      tokens.push_back(data.tokenizer.encode(caption(pair), kMaxTokens));
      continue;
    }
    EmojiPair thinned{
        .sequence = {}, .name = pair.name, .keywords = {}, .group = {}, .subgroup = {}, .base = {}, .rgb = {}};
    const tapecache::RandomKey key{training->seed, training->step, kKeywordCall};
    for (std::size_t k = 0; k < pair.keywords.size(); ++k) {
      const std::uint32_t word = key.draw(static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(k))[0];
      if (word & 1) thinned.keywords.push_back(pair.keywords[k]);
    }
    tokens.push_back(data.tokenizer.encode(caption(thinned), kMaxTokens));
  }
  return tapecache::models::TokenBatch::pad(tokens);
}

}  // namespace clip_emoji
