#include "tapecache/data/batch_order.h"

#include <numeric>
#include <random>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::data {

std::vector<std::int64_t> BatchOrder::shuffled(std::int64_t count, std::uint64_t seed, std::uint64_t number) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::seed_seq words{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                      static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32)};
  // std::shuffle may draw differently from one standard library to the next.
  std::mt19937_64 draw(words);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
  return order;
}

BatchOrder::BatchOrder(std::int64_t samples, std::int64_t batch, std::uint64_t seed)
    : samples_(samples), batch_(batch), seed_(seed) {
  if (batch < 1 || batch > samples) {
    throw ValueError(
        fmt::format("batch order: batches of {} from {} samples, expected 1 to {}", batch, samples, samples));
  }
}

std::vector<std::int64_t> BatchOrder::rows(std::int64_t step) { return rows(step, 0, 1); }

std::vector<std::int64_t> BatchOrder::rows(std::int64_t step, int rank, int ranks) {
  if (step < 0) throw ValueError(fmt::format("batch order: step {}, expected at least 0", step));
  if (rank < 0 || rank >= ranks) throw ValueError(fmt::format("batch order: rank {} of {}", rank, ranks));
  if (epoch(step) != epoch_) {
    order_ = shuffled(samples_, seed_, static_cast<std::uint64_t>(epoch(step)));
    epoch_ = epoch(step);
  }
  const auto first = order_.begin() + step % steps_per_epoch() * batch_;
  return {first + batch_ * rank / ranks, first + batch_ * (rank + 1) / ranks};
}

}  // namespace tapecache::data
