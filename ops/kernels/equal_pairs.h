#pragma once

#include <cstdint>

namespace tapecache::kernels {

/// What stands for the logit of a pair that is left out: far below all others, and finite, so that anomaly mode stays
/// quiet.
inline constexpr double kExcluded = -1e37;

/// Which targets are left out of a query's negatives, as no negatives of it, the positive of query i being target i ·
/// step: those whose id is that of its positive, and the positives of queries whose id is its own. Without ids all
/// differ.
struct EqualPairs {
  const std::int64_t *query_ids = nullptr, *target_ids = nullptr;
  std::int64_t step = 1;

  constexpr bool some() const { return query_ids || target_ids; }
  constexpr bool excludes(std::int64_t query, std::int64_t target) const {
    const std::int64_t positive = query * step;
    if (target == positive) return false;
    if (target_ids && target_ids[target] == target_ids[positive]) return true;
    if (!query_ids) return false;
    if (step == 1) return query_ids[target] == query_ids[query];
    return target % step == 0 && query_ids[target / step] == query_ids[query];
  }
};

}  // namespace tapecache::kernels
