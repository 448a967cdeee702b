#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/mode.h"

/// Rows of a table by index. All arrays are contiguous and row-major.
namespace tapecache::kernels {

template <class T>
struct GatherKernels {
  // y[i] = table[index[i]]; backward sums in the order of i, so it is deterministic.
  void (*gather_rows)(std::int64_t count, std::int64_t width, const T* table, const std::int64_t* index, T* y);
  void (*gather_rows_backward)(std::int64_t count, std::int64_t width, std::int64_t table_rows,
                               const std::int64_t* index, const T* dy, T* dtable, Mode);
};

}  // namespace tapecache::kernels
