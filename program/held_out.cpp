#include "held_out.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "tapecache/data/batch_order.h"

namespace tapecache::program {

std::vector<std::int64_t> held_out(const std::deque<std::uint32_t>& anchors, double share, std::int64_t most,
                                   std::uint64_t seed) {
  constexpr std::uint64_t kShuffle = ~std::uint64_t{0};  // no epoch's
  const auto wanted = std::min(most, std::int64_t{std::llround(share * static_cast<double>(anchors.size()))});
  std::vector<std::int64_t> rows;
  if (wanted == 0) return rows;
  std::vector<std::uint32_t> sorted(anchors.begin(), anchors.end());
  std::ranges::sort(sorted);
  std::unordered_set<std::uint32_t> taken;
  std::int64_t count = 0;
  for (const std::int64_t row : data::BatchOrder::shuffled(static_cast<std::int64_t>(anchors.size()), seed, kShuffle)) {
    if (count >= wanted) break;
    const std::uint32_t anchor = anchors[static_cast<std::size_t>(row)];
    const auto [begin, end] = std::equal_range(sorted.begin(), sorted.end(), anchor);
    const std::int64_t pairs = end - begin;
    if (count + pairs <= wanted && taken.insert(anchor).second) count += pairs;
  }
  for (std::size_t row = 0; row < anchors.size(); ++row) {
    if (taken.contains(anchors[row])) rows.push_back(static_cast<std::int64_t>(row));
  }
  return rows;
}

}  // namespace tapecache::program
