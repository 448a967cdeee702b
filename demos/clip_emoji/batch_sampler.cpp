#include "batch_sampler.h"

#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/random.h"

namespace clip_emoji {

BatchSampler::BatchSampler(std::int64_t items, std::int64_t batch, std::uint64_t seed) : batch_(batch), seed_(seed) {
  if (batch < 1 || batch > items) {
    throw tapecache::ValueError(fmt::format("batch: {} pairs a batch, expected 1 to {}", batch, items));
  }
  order_.resize(static_cast<std::size_t>(items));
  shuffle();
}

void BatchSampler::shuffle() {
  std::iota(order_.begin(), order_.end(), 0);
  const tapecache::RandomKey key{seed_, epoch_++, 0xBA7C4};
  for (std::size_t i = order_.size() - 1; i > 0; --i) {
    const std::uint64_t word = key.draw(0, static_cast<std::uint32_t>(i))[0];
    std::swap(order_[i], order_[static_cast<std::size_t>((word * (i + 1)) >> 32)]);
  }
  position_ = 0;
}

std::vector<std::int64_t> BatchSampler::next() {
  const auto batch = static_cast<std::size_t>(batch_);
  if (position_ + batch > order_.size()) shuffle();
  const auto first = order_.begin() + static_cast<std::ptrdiff_t>(position_);
  position_ += batch;
  return {first, first + batch_};
}

}  // namespace clip_emoji
