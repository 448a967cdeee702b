#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "tapecache/ops/cpu/scratch.h"

/// The serial matrix product that every kernel of the CPU backend stands on. Blocks of both operands are packed as in
/// Goto & van de Geijn 2008 ("Anatomy of High-Performance Matrix Multiplication"), and a micro-kernel keeps a tile of
/// the result in registers. Each element of the result is a chain of fused multiply-adds over kDepth terms, and the sum
/// of such chains: its bits do not depend on where it stands, nor on how many rows and columns there are.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

/// op(A): element (i, j) is data[i · stride + j], or data[j · stride + i] where it is transposed.
template <class T>
struct Operand {
  const T* data = nullptr;
  std::int64_t stride = 0;
  bool transposed = false;

  const T* at(std::int64_t i, std::int64_t j) const { return data + (transposed ? j * stride + i : i * stride + j); }
};

namespace product_detail {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 14;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kTileRows = 6;
#else
constexpr int kVectorBytes = 16, kTileRows = 4;
#endif

template <class T>
using Vector [[gnu::vector_size(kVectorBytes)]] = T;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int kTileCols = 2 * kLanes<T>;

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

constexpr std::int64_t kDepth = 256;             // terms that are summed in registers
constexpr std::int64_t kAcross = 512;            // columns whose packed block stays in the second-level cache
constexpr std::int64_t kRowPitch = kDepth + 16;  // of packed rows; a power of two would put them into one cache set

/// Rows of op(A): each contiguous, a_stride apart, or (kInterleaved) packed beside each other for each term.
enum class Layout { kRows, kInterleaved };

/// A tile of kRows × (kVectors · lanes) products of `depth` terms, added to `before` (in the layout of c) where that is
/// not null. Only `cols` columns are there.
template <class T, Layout kLayout, int kRows, int kVectors>
void multiply_tile(std::int64_t depth, const T* a, std::int64_t a_stride, const T* b, T* c, std::int64_t c_stride,
                   std::int64_t cols, const T* bias, const T* before) {
  constexpr int kWidth = kVectors * kLanes<T>;
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) __builtin_prefetch(c + i * c_stride + v * kLanes<T>, 1);
  }
  Vector<T> sum[kRows][kVectors] = {};
  for (std::int64_t p = 0; p < depth; ++p) {
    Vector<T> right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + p * kWidth + v * kLanes<T>);
    const T* left = kLayout == Layout::kRows ? a + p : a + p * kTileRows;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const T factor = kLayout == Layout::kRows ? left[i * a_stride] : left[i];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] += factor * right[v];
    }
  }
  if (cols == kWidth) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      T* row = c + i * c_stride;
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t j = v * kLanes<T>;
        Vector<T> value = sum[i][v];
        if (before) value = load(before + i * c_stride + j) + value;
        if (bias) value += load(bias + j);
        store(row + j, value);
      }
    }
    return;
  }
  alignas(kVectorBytes) T spill[kRows][kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(&spill[i][v * kLanes<T>], sum[i][v]);
  }
  for (int i = 0; i < kRows; ++i) {
    T* row = c + i * c_stride;
    for (std::int64_t j = 0; j < cols; ++j) {
      T value = spill[i][j];
      if (before) value = before[i * c_stride + j] + value;
      if (bias) value += bias[j];
      row[j] = value;
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

/// Room for one panel of op(A) and one block of op(B), of a thread's own.
template <class T>
struct PackedBlocks {
  static constexpr std::int64_t kLeft = kRowPitch * kTileRows, kRight = kDepth * kAcross;

  T* left = thread_scratch<T, PackedBlocks>(kLeft + kRight);
  T* right = left + kLeft;
};

/// Rows first … first + rows of op(A), terms begin … begin + depth.
template <class T>
void pack_left(const Operand<T>& a, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t depth,
               T* to) {
  if (!a.transposed) {
    for (std::int64_t i = 0; i < rows; ++i) std::copy_n(a.at(first + i, begin), depth, to + i * kRowPitch);
  } else if (rows == kTileRows) {  // of known size, so that it is no call
    for (std::int64_t p = 0; p < depth; ++p) {
      std::memcpy(to + p * kTileRows, a.at(first, begin + p), kTileRows * sizeof(T));
    }
  } else {
    for (std::int64_t p = 0; p < depth; ++p) {
      const T* from = a.at(first, begin + p);
      for (std::int64_t i = 0; i < kTileRows; ++i) to[p * kTileRows + i] = i < rows ? from[i] : T{0};
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

/// Asks for what the next `pack_left` will read, while there is something to compute in the meantime.
template <class T>
void prefetch_left(const Operand<T>& a, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t depth) {
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t lines = a.transposed ? depth : rows, length = a.transposed ? rows : depth;
  for (std::int64_t i = 0; i < lines; ++i) {
    const T* from = a.transposed ? a.at(first, begin + i) : a.at(first + i, begin);
    for (std::int64_t j = 0; j < length; j += kLine) __builtin_prefetch(from + j, 0, 2);
  }
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

}  // namespace product_detail

/// What a product is joined with while its operands and its result are in the caches: nothing.
struct Plain {
  static constexpr bool kLeft = false, kRight = false, kResult = false;
};

/// C [m, n] (its rows `c_stride` apart) = op(A) op(B), or += with `accumulate`; plus bias [n] and plus residual (in the
/// layout of C, without `accumulate`) where they are not null.
/// `fused.left` and `fused.right` change `count` packed elements of a factor, `fused.result` changes `count` finished
/// elements of C from element (i, j); each is called where its flag is set.
template <class T, class Fused = Plain>
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<T>& a, const Operand<T>& b, T* c,
              std::int64_t c_stride, bool accumulate, const T* bias = nullptr, const T* residual = nullptr,
              const Fused& fused = {}) {
  using namespace product_detail;
  if (m <= 0 || n <= 0) return;
  const T* start = accumulate ? c : residual;
  if (k <= 0) {
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        c[i * c_stride + j] = (start ? start[i * c_stride + j] : T{0}) + (bias ? bias[j] : T{0});
      }
      if constexpr (Fused::kResult) fused.result(c + i * c_stride, i, 0, n);
    }
    return;
  }
  const PackedBlocks<T> packed;
  const std::int64_t panels = (m + kTileRows - 1) / kTileRows;
  const std::int64_t height = (m + panels - 1) / panels;
  const auto& wide = a.transposed ? kTileFunctions<T, Layout::kInterleaved, 2> : kTileFunctions<T, Layout::kRows, 2>;
  const auto& narrow = a.transposed ? kTileFunctions<T, Layout::kInterleaved, 1> : kTileFunctions<T, Layout::kRows, 1>;
  for (std::int64_t col = 0; col < n; col += kAcross) {
    const std::int64_t across = std::min(kAcross, n - col);
    for (std::int64_t begin = 0; begin < k; begin += kDepth) {
      const std::int64_t depth = std::min(kDepth, k - begin);
      const bool first = begin == 0;
      const T* before = first ? start : c;
      pack_right(b, begin, depth, col, across, packed.right);
      if constexpr (Fused::kRight) {
        const std::int64_t whole = across / kTileCols<T> * kTileCols<T>;
        fused.right(packed.right, (whole + (whole < across ? panel_width<T>(across, whole) : 0)) * depth);
      }
      for (std::int64_t row = 0; row < m; row += height) {
        const std::int64_t rows = std::min(height, m - row);
        // Rows that would fall into one cache set are packed.
        const bool in_place =
            !Fused::kLeft && !a.transposed && a.stride * static_cast<std::int64_t>(sizeof(T)) % 4096 != 0;
        if (!in_place) pack_left(a, row, rows, begin, depth, packed.left);
        if constexpr (Fused::kLeft) {
          const std::int64_t lines = a.transposed ? 1 : rows, length = a.transposed ? kTileRows * depth : depth;
          for (std::int64_t i = 0; i < lines; ++i) fused.left(packed.left + i * kRowPitch, length);
        }
        const T* left = in_place ? a.at(row, begin) : packed.left;
        prefetch_left(a, row + rows, std::min(height, m - row - rows), begin, depth);
        for (std::int64_t j = 0; j < across; j += kTileCols<T>) {
          const std::int64_t cols = std::min<std::int64_t>(kTileCols<T>, across - j);
          const auto& tiles = panel_width<T>(across, j) == kTileCols<T> ? wide : narrow;
          const std::int64_t at = row * c_stride + col + j;
          tiles[static_cast<std::size_t>(rows - 1)](depth, left, in_place ? a.stride : kRowPitch,
                                                    packed.right + j * depth, c + at, c_stride, cols,
                                                    first && bias ? bias + col + j : nullptr,
                                                    before ? before + at : nullptr);
        }
        if constexpr (Fused::kResult) {
          if (begin + depth < k) continue;
          for (std::int64_t i = row; i < row + rows; ++i) fused.result(c + i * c_stride + col, i, col, across);
        }
      }
    }
  }
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
