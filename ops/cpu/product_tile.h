#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "tapecache/ops/cpu/vec.h"

/// The micro-kernel of the matrix products: a tile of the result that is summed in registers.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT::product_detail {

template <class T>
constexpr int kLanes = static_cast<int>(kVecLanes<T>);
template <class T>
constexpr int kTileCols = 2 * kLanes<T>;
constexpr int kVectorBytes = kLanes<std::uint8_t>;
// What fills the registers but for two vectors of B and an element of A.
constexpr int kTileRows = kVectorBytes == 64 ? 14 : kVectorBytes == 32 ? 6 : 4;

/// Rows of op(A): each contiguous, a_stride apart, or (kInterleaved) packed beside each other for each term.
enum class Layout { kRows, kInterleaved };

/// A vector of a tile, or the first `cols` elements of it, joined with what it is added to and put where it belongs.
template <class T>
void finish(Vec<T> value, std::int64_t cols, T* c, const T* bias, const T* before) {
  const Tag<T> tag;
  if (cols >= kLanes<T>) {
    if (before) value = hn::Add(hn::LoadU(tag, before), value);
    if (bias) value = hn::Add(value, hn::LoadU(tag, bias));
    hn::StoreU(value, tag, c);
  } else if (cols > 0) {
    if (before) value = hn::Add(load_first(before, cols), value);
    if (bias) value = hn::Add(value, load_first(bias, cols));
    store_first(value, c, cols);
  }
}

/// A tile of kRows × (kVectors · lanes) products of `depth` terms, added to `before` (in the layout of c) where that is
/// not null. Only `cols` columns are there.
template <class T, Layout kLayout, int kRows, int kVectors>
void multiply_tile(std::int64_t depth, const T* a, std::int64_t a_stride, const T* b, T* c, std::int64_t c_stride,
                   std::int64_t cols, const T* bias, const T* before) {
  constexpr int kWidth = kVectors * kLanes<T>;
  const Tag<T> tag;
  for (int i = 0; before && i < kRows; ++i) {  // what is only written need not be waited for
    for (int v = 0; v < kVectors; ++v) __builtin_prefetch(before + i * c_stride + v * kLanes<T>, 1);
  }
  // Four rows are addressed by one pointer, a_stride and its threefold, so that all addresses fit into registers.
  constexpr int kGroup = 4;
  const T* group[kTileRows / kGroup + 1];
#pragma GCC unroll 16
  for (int i = 0; i <= kTileRows / kGroup; ++i) group[i] = a + i * kGroup * a_stride;
  Vec<T> sum[kRows][kVectors] = {};
  for (std::int64_t p = 0; p < depth; ++p) {
    Vec<T> right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = hn::LoadU(tag, b + p * kWidth + v * kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec<T> factor =
          hn::Set(tag, kLayout == Layout::kRows ? group[i / kGroup][p + i % kGroup * a_stride] : a[p * kTileRows + i]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::MulAdd(factor, right[v], sum[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t j = v * kLanes<T>, at = i * c_stride + j;
      finish<T>(sum[i][v], cols - j, c + at, bias ? bias + j : nullptr, before ? before + at : nullptr);
    }
  }
}

template <class T>
using TileFunction = void (*)(std::int64_t, const T*, std::int64_t, const T*, T*, std::int64_t, std::int64_t, const T*,
                              const T*);

template <class T, Layout kLayout, int kVectors, std::size_t... kIndex>
constexpr std::array<TileFunction<T>, kTileRows> tile_functions(std::index_sequence<kIndex...>) {
  return {multiply_tile<T, kLayout, static_cast<int>(kIndex) + 1, kVectors>...};
}
/// By number of rows less one.
template <class T, Layout kLayout, int kVectors>
constexpr auto kTileFunctions = tile_functions<T, kLayout, kVectors>(std::make_index_sequence<kTileRows>());

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT::product_detail
