#include "batch_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace tapecache::program {

std::vector<std::int64_t> shuffled(std::int64_t count, std::uint64_t seed, std::uint64_t number) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::seed_seq words{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                      static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32)};
  // std::shuffle may draw differently from one standard library to the next.
  std::mt19937_64 draw(words);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
  return order;
}

std::vector<std::int64_t> BatchOrder::rows(std::int64_t step) {
  const std::int64_t epoch = this->epoch(step), first = step % steps_per_epoch() * batch_;
  if (epoch != epoch_) {
    order_ = shuffled(pairs_, seed_, static_cast<std::uint64_t>(epoch));
    epoch_ = epoch;
  }
  return {order_.begin() + first, order_.begin() + first + batch_};
}

std::pair<Pairs, Pairs> held_out(const Pairs& pairs, double share, std::int64_t most, std::uint64_t seed) {
  constexpr std::uint64_t kShuffle = ~std::uint64_t{0};  // no epoch's
  const auto wanted = std::min(most, std::int64_t{std::llround(share * static_cast<double>(pairs.size()))});
  std::unordered_map<std::string_view, std::int64_t> pairs_of_anchor;
  for (const std::string& anchor : pairs.anchors) ++pairs_of_anchor[anchor];
  std::unordered_set<std::string_view> taken;
  std::int64_t count = 0;
  for (const std::int64_t row : shuffled(pairs.size(), seed, kShuffle)) {
    if (count >= wanted) break;
    const std::string& anchor = pairs.anchors[static_cast<std::size_t>(row)];
    if (count + pairs_of_anchor[anchor] <= wanted && taken.insert(anchor).second) count += pairs_of_anchor[anchor];
  }
  std::vector<std::int64_t> sides[2];
  for (std::int64_t row = 0; row < pairs.size(); ++row) {
    sides[taken.contains(pairs.anchors[static_cast<std::size_t>(row)]) ? 1 : 0].push_back(row);
  }
  return {pairs.select(sides[0]), pairs.select(sides[1])};
}

}  // namespace tapecache::program
