#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tapecache/ops/cpu/product_tile.h"

/// Packing of the factors of a matrix product, as in Goto & van de Geijn 2008 ("Anatomy of High-Performance Matrix
/// Multiplication").
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

/// op(A): element (i, j) is data[i · stride + j], or data[j · stride + i] where it is transposed.
template <class T>
struct Operand {
  const T* data = nullptr;
  std::int64_t stride = 0;
  bool transposed = false;
  std::int64_t packed_cols = 0;   ///< not 0: data is what `pack_factor` has made of op(B) with so many columns,
  std::int64_t packed_first = 0;  ///< of which these are the ones from here on

  const T* at(std::int64_t i, std::int64_t j) const { return data + (transposed ? j * stride + i : i * stride + j); }
  /// From row i on.
  Operand from_row(std::int64_t i) const { return {at(i, 0), stride, transposed}; }
  /// From column j on; where they are packed, j is a multiple of a tile's columns.
  Operand from_col(std::int64_t j) const {
    if (packed_cols > 0) return {data, stride, transposed, packed_cols, packed_first + j};
    return {at(0, j), stride, transposed};
  }
};

namespace product_detail {

// Terms that are summed in registers. A panel of op(B) of that depth fits into the first-level cache.
constexpr std::int64_t kDepth = kVectorBytes == 64 ? 256 : 384;
constexpr std::int64_t kRowPitch = kDepth + 16;  // of packed rows; a power of two would put them into one cache set

template <class T>
using Vector [[gnu::vector_size(kVectorBytes)]] = T;

template <class T>
Vector<T> load(const T* from) {
  Vector<T> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
template <class T, class V>
void store(T* to, const V& vector) {
  static_assert(sizeof(V) == kVectorBytes);
  std::memcpy(to, &vector, sizeof(vector));
}

/// Elements of a packed tile of rows, in either layout. Whole vectors are stored of interleaved rows, beyond the last
/// one.
constexpr std::int64_t kPackedTile = kRowPitch * kTileRows;

/// `rows` rows of op(A) from `first`, terms begin … begin + depth: tile after tile, kPackedTile apart, `height` rows
/// each. Rows that are stored transposed are interleaved.
template <class T>
void pack_left(const Operand<T>& a, std::int64_t first, std::int64_t rows, std::int64_t height, std::int64_t begin,
               std::int64_t depth, T* to) {
  if (!a.transposed) {
    for (std::int64_t i = 0; i < rows; ++i) {
      std::copy_n(a.at(first + i, begin), depth, to + i / height * kPackedTile + i % height * kRowPitch);
    }
    return;
  }
  // As they lie in memory.
  constexpr std::int64_t kWhole = (kTileRows + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  for (std::int64_t p = 0; p < depth; ++p) {
    const T* from = a.at(first, begin + p);
    T* tile = to + p * kTileRows;
    std::int64_t i = 0;
    for (; i + kWhole <= rows; i += height, tile += kPackedTile) {
#pragma GCC unroll 2
      for (std::int64_t v = 0; v < kWhole; v += kLanes<T>) store(tile + v, load(from + i + v));
    }
    for (; i < rows; i += height, tile += kPackedTile) {
      for (std::int64_t j = 0; j < kTileRows; ++j) tile[j] = j < rows - i ? from[i + j] : T{0};
    }
  }
}

/// Elements of a and, from the number of lanes on, of b, by index.
template <class V, class Index>
V select(V a, V b, Index index) {
#if defined(__clang__)
  constexpr int kCount = sizeof(V) / sizeof(a[0]);
  V result;
  for (int i = 0; i < kCount; ++i) result[i] = index[i] < kCount ? a[index[i]] : b[index[i] - kCount];
  return result;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

/// Swaps the blocks of kStep × kStep elements beside the diagonal of blocks of twice that size.
template <class T, int kStep>
void swap_blocks(Vector<T> (&rows)[kLanes<T>]) {
  using Index [[gnu::vector_size(kVectorBytes)]] = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  Index upper, lower;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    upper[lane] = (lane & kStep) == 0 ? lane : lane - kStep + kLanes<T>;
    lower[lane] = (lane & kStep) == 0 ? lane + kStep : lane + kLanes<T>;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    if ((i & kStep) != 0) continue;
    const Vector<T> above = rows[i], below = rows[i + kStep];
    rows[i] = select(above, below, upper);
    rows[i + kStep] = select(above, below, lower);
  }
  if constexpr (2 * kStep < kLanes<T>) swap_blocks<T, 2 * kStep>(rows);
}

/// Transposes a square of lanes × lanes elements.
template <class T>
void transpose_square(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride) {
  Vector<T> rows[kLanes<T>];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) rows[i] = load(from + i * from_stride);
  swap_blocks<T, 1>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) store(to + i * to_stride, rows[i]);
}

/// Elements of `across` packed columns of `depth` terms: those of whole panels.
template <class T>
std::int64_t packed_size(std::int64_t across, std::int64_t depth) {
  return (across + kTileCols<T> - 1) / kTileCols<T> * kTileCols<T> * depth;
}

/// Columns of the panel that begins at column j of `across` columns of op(B): one vector wide where that is enough.
template <class T>
std::int64_t panel_width(std::int64_t across, std::int64_t j) {
  return across - j > kLanes<T> ? kTileCols<T> : kLanes<T>;
}

/// A panel of op(B), stored transposed: for each term `width` columns, of which `cols` are there and the others 0.
template <class T>
void pack_transposed_panel(const Operand<T>& b, std::int64_t begin, std::int64_t depth, std::int64_t first,
                           std::int64_t cols, std::int64_t width, T* to) {
  // A square of lanes × lanes at a time.
  for (std::int64_t j = 0; j < width; j += kLanes<T>) {
    std::int64_t p = 0;
    if (j + kLanes<T> <= cols) {
      for (; p + kLanes<T> <= depth; p += kLanes<T>) {
        transpose_square(b.at(begin + p, first + j), b.stride, to + p * width + j, width);
      }
    }
    for (std::int64_t lane = j; lane < j + kLanes<T>; ++lane) {
      const T* from = lane < cols ? b.at(begin, first + lane) : nullptr;
      for (std::int64_t rest = p; rest < depth; ++rest) to[rest * width + lane] = from ? from[rest] : T{0};
    }
  }
}

/// `across` columns of op(B) from `first`, terms begin … begin + depth: panel after panel, each depth × its width.
template <class T>
void pack_right(const Operand<T>& b, std::int64_t begin, std::int64_t depth, std::int64_t first, std::int64_t across,
                T* to) {
  if (b.transposed) {
    for (std::int64_t j = 0; j < across; j += kTileCols<T>) {
      pack_transposed_panel(b, begin, depth, first + j, std::min<std::int64_t>(kTileCols<T>, across - j),
                            panel_width<T>(across, j), to + j * depth);
    }
    return;
  }
  // Row by row, as they lie in memory.
  const std::int64_t whole = across / kTileCols<T> * kTileCols<T>, width = panel_width<T>(across, whole);
  for (std::int64_t p = 0; p < depth; ++p) {
    const T* from = b.at(begin + p, first);
    for (std::int64_t j = 0; j < whole; j += kTileCols<T>) {
      T* panel = to + j * depth + p * kTileCols<T>;
#pragma GCC unroll 2
      for (int v = 0; v < kTileCols<T>; v += kLanes<T>) {
        store(panel + v, load(from + j + v));
      }
    }
    if (whole == across) continue;
    T* panel = to + whole * depth + p * width;
    for (std::int64_t j = 0; j < width; ++j) panel[j] = whole + j < across ? from[whole + j] : T{0};
  }
}

/// Where columns from `col` and terms begin … begin + depth of a whole packed op(B) are: kDepth terms of all columns
/// after the kDepth before.
template <class T>
const T* packed_panels(const Operand<T>& b, std::int64_t col, std::int64_t begin, std::int64_t depth) {
  return b.data + packed_size<T>(b.packed_cols, begin) + (b.packed_first + col) * depth;
}

}  // namespace product_detail

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
