#pragma once

#include <cstdint>

namespace tapecache {

/// A block of about `work` units where one item costs `cost` units; at least 1.
constexpr std::int64_t block_for(std::int64_t cost, std::int64_t work = 16384) {
  return cost >= work || cost <= 0 ? 1 : work / cost;
}

}  // namespace tapecache
