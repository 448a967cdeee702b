#pragma once

#include <algorithm>
#include <chrono>
#include <limits>

namespace ops_bench {

/// The least that one of several calls took: of as many as fit into `budget` seconds, and of two at least, beside one
/// to warm up.
template <class F>
double best_seconds(double budget, const F& run) {
  using Clock = std::chrono::steady_clock;
  run();
  const auto end = Clock::now() + std::chrono::duration<double>(budget);
  double best = std::numeric_limits<double>::infinity();
  for (int calls = 0; calls < 2 || Clock::now() < end; ++calls) {
    const auto begin = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return best;
}

}  // namespace ops_bench
