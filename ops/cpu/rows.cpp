#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kColumnBlock = 32;

}  // namespace

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
  parallel_for(width, kColumnBlock, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = 0; i < count; ++i) {
      T* to = dtable + index[i] * width;
      const T* from = dy + i * width;
      for (std::int64_t j = begin; j < end; ++j) to[j] += from[j];
    }
  });
}

template void gather_rows(std::int64_t, std::int64_t, const float*, const std::int64_t*, float*);
template void gather_rows(std::int64_t, std::int64_t, const double*, const std::int64_t*, double*);
template void gather_rows_backward(std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, const float*, float*,
                                   Mode);
template void gather_rows_backward(std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, const double*,
                                   double*, Mode);

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
