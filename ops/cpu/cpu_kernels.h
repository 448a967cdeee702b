#pragma once

#include <algorithm>
#include <cstdint>

#include "tapecache/core/block_size.h"
#include "tapecache/core/element.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/kernels/table.h"

/// The CPU kernels, as `ops/kernels/` describes them; each family has a file of its own. Work is cut into blocks whose
/// size depends on the problem alone, and sums across blocks are taken in block order.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

template <class T>
inline void put(T& destination, T value, Mode mode) {
  destination = mode == Mode::kWrite ? value : destination + value;
}
/// The value rounded, or what is there plus the value.
template <class Low>
requires kLowPrecision<Low>
inline void put(Low& destination, float value, Mode mode) {
  destination = Low(mode == Mode::kWrite ? value : static_cast<float>(destination) + value);
}

/// Puts `count` neighbours.
template <class To, class T>
inline void put_all(To* to, const T* values, std::int64_t count, Mode mode) {
  if (mode == Mode::kWrite) {
    for (std::int64_t i = 0; i < count; ++i) put(to[i], values[i], Mode::kWrite);
  } else {
    for (std::int64_t i = 0; i < count; ++i) put(to[i], values[i], Mode::kAccumulate);
  }
}

/// This backend's kernels of one family. Each family's file ends in a definition for each element type.
template <class Family>
struct Provided {
  static const Family kernels;
};

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
