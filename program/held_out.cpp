#include "held_out.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "tapecache/data/batch_order.h"

namespace tapecache::program {

std::pair<Pairs, Pairs> held_out(const Pairs& pairs, double share, std::int64_t most, std::uint64_t seed) {
  constexpr std::uint64_t kShuffle = ~std::uint64_t{0};  // no epoch's
  const auto wanted = std::min(most, std::int64_t{std::llround(share * static_cast<double>(pairs.size()))});
  std::unordered_map<std::string_view, std::int64_t> pairs_of_anchor;
  for (const std::string& anchor : pairs.anchors) ++pairs_of_anchor[anchor];
  std::unordered_set<std::string_view> taken;
  std::int64_t count = 0;
  for (const std::int64_t row : data::shuffled(pairs.size(), seed, kShuffle)) {
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
