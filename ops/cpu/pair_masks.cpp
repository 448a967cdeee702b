#include "tapecache/ops/cpu/cpu_kernels.h"

#include <vector>

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

/// Rows of this many columns that one block takes.
std::int64_t rows_of_block(std::int64_t cols) {
  constexpr std::int64_t kElements = 1 << 15;
  return std::max<std::int64_t>(1, kElements / std::max<std::int64_t>(1, cols));
}

}  // namespace

template <class T>
void positive_pairs(std::int64_t n, const std::int64_t* labels, T* pairs, T* anchors, bool* any) {
  std::vector<std::int64_t> others(static_cast<std::size_t>(n));
  parallel_for(n, rows_of_block(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t count = -1;  // a row equals itself
      for (std::int64_t j = 0; j < n; ++j) count += labels[j] == labels[i];
      others[static_cast<std::size_t>(i)] = count;
    }
  });
  const auto rows = std::count_if(others.begin(), others.end(), [](std::int64_t count) { return count > 0; });
  *any = rows > 0;
  parallel_for(n, rows_of_block(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t count = others[static_cast<std::size_t>(i)];
      const double share = count > 0 ? 1 / static_cast<double>(rows) : 0.0;
      const T weight = count > 0 ? static_cast<T>(share / static_cast<double>(count)) : T(0);
      anchors[i] = static_cast<T>(share);
      for (std::int64_t j = 0; j < n; ++j) pairs[i * n + j] = labels[j] == labels[i] ? weight : T(0);
      pairs[i * n + i] = 0;
    }
  });
}

template <class T>
void false_negatives(const FalseNegatives& rule, const double* similarities, const double* positives, T excluded, T* mask) {
  parallel_for(rule.rows, rows_of_block(rule.cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const double threshold = rule.threshold(positives[i * rule.positive_step]);
      const double* row = similarities + i * rule.cols;
      T* to = mask + i * rule.cols;
      for (std::int64_t j = 0; j < rule.cols; ++j) to[j] = row[j] > threshold ? excluded : T(0);
      if (rule.kept_step > 0) to[i * rule.kept_step] = 0;
      if (rule.self) to[i] = excluded;
    }
  });
}

template void positive_pairs(std::int64_t, const std::int64_t*, float*, float*, bool*);
template void positive_pairs(std::int64_t, const std::int64_t*, double*, double*, bool*);
template void false_negatives(const FalseNegatives&, const double*, const double*, float, float*);
template void false_negatives(const FalseNegatives&, const double*, const double*, double, double*);

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
