#include <array>
#include <utility>
#include <vector>

#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/sums.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kColumnBlock = 32;
constexpr std::int64_t kFew = 8;  // rows that are added in T

/// Places [0, count) in the order of their indices, equal ones in their own.
struct Runs {
  struct Run {
    std::int64_t index, begin, end;  // of the order
  };
  std::vector<std::int64_t> order;
  std::vector<Run> runs;

  Runs(std::int64_t count, const std::int64_t* index, std::int64_t limit) : order(static_cast<std::size_t>(count)) {
    std::vector<std::int64_t> next(static_cast<std::size_t>(limit));
    for (std::int64_t i = 0; i < count; ++i) ++next[static_cast<std::size_t>(index[i])];
    std::int64_t begin = 0;
    for (std::int64_t row = 0; row < limit; ++row) {
      std::int64_t& of_row = next[static_cast<std::size_t>(row)];
      if (of_row > 0) runs.push_back({row, begin, begin + of_row});
      begin += std::exchange(of_row, begin);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      order[static_cast<std::size_t>(next[static_cast<std::size_t>(index[i])]++)] = i;
    }
  }
};

template <class T>
void gather_rows(std::int64_t count, std::int64_t width, const T* table, const std::int64_t* index, T* y) {
  parallel_for(count, block_for(width), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T* row = table + index[i] * width;
      std::copy(row, row + width, y + i * width);
    }
  });
}

template <class T>
void gather_rows_backward(std::int64_t count, std::int64_t width, std::int64_t table_rows, const std::int64_t* index,
                          const T* dy, T* dtable, Mode mode) {
  if (mode == Mode::kWrite) {
    parallel_for(table_rows * width, 1 << 15,
                 [=](std::int64_t begin, std::int64_t end) { std::fill(dtable + begin, dtable + end, T{0}); });
  }
  // Cut along the width: equal indices meet in one block, which adds them in their order.
  const Runs all(count, index, table_rows);
  parallel_for(width, kColumnBlock, [&](std::int64_t begin, std::int64_t end) {
    for (const Runs::Run& run : all.runs) {
      T* to = dtable + run.index * width;
      const auto row = [&, from = all.order.data()](std::int64_t i) { return dy + from[i] * width; };
      if (run.end - run.begin <= kFew) {
        for (std::int64_t i = run.begin; i < run.end; ++i) {
          const T* from = row(i);
          for (std::int64_t j = begin; j < end; ++j) to[j] += from[j];
        }
        continue;
      }
      double sums[column_sums_size<T>(kColumnBlock)] = {};
      add_rows<T, 1>(run.begin, run.end, end - begin, {sums},
                     [&](std::int64_t i, std::int64_t j, auto at)
                         TAPECACHE_INLINE { return std::array{at.load(row(i) + begin + j)}; });
      for (std::int64_t j = begin; j < end; ++j) to[j] += static_cast<T>(sums[j - begin]);
    }
  });
}

template <class T>
constexpr GatherKernels<T> kGather{
    .gather_rows = gather_rows<T>,
    .gather_rows_backward = gather_rows_backward<T>,
};

}  // namespace

template <>
const GatherKernels<float> Provided<GatherKernels<float>>::kernels = kGather<float>;
template <>
const GatherKernels<double> Provided<GatherKernels<double>>::kernels = kGather<double>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
