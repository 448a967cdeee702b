#pragma once

#include <algorithm>
#include <cstdint>

#include "tapecache/ops/cpu/cache_sizes.h"
#include "tapecache/ops/cpu/product_pack.h"
#include "tapecache/ops/cpu/scratch.h"

/// The matrix product that every kernel of the CPU backend stands on. A packed panel of op(B), which stays in the
/// first-level cache, meets one tile of rows of op(A) after the other, which stay in the second. Each element of the
/// result is a chain of fused multiply-adds over kDepth terms, and the sum of such chains: its bits do not depend on
/// where it stands, nor on how many rows and columns there are.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace product_detail {

constexpr std::int64_t kAcross = 512;       // columns that are packed before they are used,
constexpr std::int64_t kDeep = 4 * kDepth;  // and terms

/// Rows, about, of op(A) that stay in the second-level cache: in an eighth of it, since as much of C and all panels of
/// op(B) pass through it.
template <class T>
std::int64_t rows_in_cache() {
  constexpr std::int64_t kLeast = 48, kMax = 256;
  return std::clamp(second_level_cache() / 8 / (kDepth * static_cast<std::int64_t>(sizeof(T))), kLeast, kMax);
}

/// Room for a block of op(A), of a thread's own; and for kDepth × kAcross of op(B).
template <class T>
struct PackedBlocks {
  static constexpr std::int64_t kRight = kDepth * kAcross;
  static std::int64_t left_size() { return (rows_in_cache<T>() / kTileRows + 1) * kPackedTile; }

  explicit PackedBlocks(std::int64_t right_count = kRight)
      : left(thread_scratch<T, PackedBlocks>(left_size() + right_count)), right(left + left_size()) {}
  T *left, *right;
};

/// Terms begin … begin + depth of columns col … col + across of op(B).
struct Block {
  std::int64_t col, across, begin, depth;
};

/// A product as `multiply` takes it, by the pieces that it consists of.
template <class T, class Fused>
struct Product {
  std::int64_t m, n, k;
  Operand<T> a, b;
  T* c;
  std::int64_t c_stride;
  bool accumulate;
  const T *bias, *residual;
  const Fused& fused;
  std::int64_t height = tile_height(m);  ///< of tiles

  static std::int64_t tile_height(std::int64_t m) {
    const std::int64_t tiles = (m + kTileRows - 1) / kTileRows;
    return (m + tiles - 1) / tiles;
  }
  /// Whether op(B) comes packed.
  bool is_packed() const { return b.packed_cols > 0; }

  /// Packs the panels of columns first … first + cols of a block; a panel begins with the first.
  void pack(const Block& block, std::int64_t first, std::int64_t cols, T* right) const {
    for (std::int64_t at = 0; at < block.depth; at += kDepth) {
      const std::int64_t depth = std::min(kDepth, block.depth - at);
      T* to = right + packed_size<T>(block.across, at) + first * depth;
      pack_right(b, block.begin + at, depth, block.col + first, cols, to);
      if constexpr (Fused::kRight) {
        const std::int64_t whole = cols / kTileCols<T> * kTileCols<T>;
        fused.right(to, (whole + (whole < cols ? panel_width<T>(cols, whole) : 0)) * depth);
      }
    }
  }

  /// Rows row … row + rows of the product with a block, which `right` has packed where op(B) does not come so. There is
  /// room for the rows packed in `room`.
  void multiply_rows(const Block& block, const T* right, std::int64_t row, std::int64_t rows, T* room) const {
    for (std::int64_t at = 0; at < block.depth; at += kDepth) {
      const Block chain{block.col, block.across, block.begin + at, std::min(kDepth, block.depth - at)};
      multiply_chains(chain,
                      is_packed() ? packed_panels(b, chain.col, chain.begin, chain.depth)
                                  : right + packed_size<T>(block.across, at),
                      row, rows, room);
    }
    if constexpr (Fused::kResult) {
      for (std::int64_t i = row; block.begin + block.depth == k && i < row + rows; ++i) {
        fused.result(c + i * c_stride + block.col, i, block.col, block.across);
      }
    }
  }

 private:
  /// As above, of a block of kDepth terms at most.
  void multiply_chains(const Block& block, const T* right, std::int64_t row, std::int64_t rows, T* room) const {
    // Rows that would fall into one cache set are packed.
    const bool in_place = !Fused::kLeft && !a.transposed && a.stride * static_cast<std::int64_t>(sizeof(T)) % 4096 != 0;
    if (!in_place) pack_rows(block, row, rows, room);
    const std::int64_t a_stride = in_place ? a.stride : kRowPitch;
    const bool first = block.begin == 0;
    const T* start = accumulate ? c : residual;
    const T* before = first ? start : c;
    for (std::int64_t j = 0; j < block.across; j += kTileCols<T>) {
      const std::int64_t cols = std::min<std::int64_t>(kTileCols<T>, block.across - j), col = block.col + j;
      const auto& tiles = tile_functions_for(panel_width<T>(block.across, j));
      const T* added = first && bias ? bias + col : nullptr;
      for (std::int64_t i = 0; i < rows; i += height) {
        const std::int64_t here = std::min(height, rows - i), at = (row + i) * c_stride + col;
        const T* left = in_place ? a.at(row + i, block.begin) : room + i / height * kPackedTile;
        tiles[static_cast<std::size_t>(here - 1)](block.depth, left, a_stride, right + j * block.depth, c + at,
                                                  c_stride, cols, added, before ? before + at : nullptr);
      }
    }
  }

  void pack_rows(const Block& block, std::int64_t row, std::int64_t rows, T* room) const {
    pack_left(a, row, rows, height, block.begin, block.depth, room);
    if constexpr (Fused::kLeft) {
      for (std::int64_t i = 0; i < rows; i += height, room += kPackedTile) {
        const std::int64_t lines = a.transposed ? 1 : std::min(height, rows - i);
        const std::int64_t length = a.transposed ? kTileRows * block.depth : block.depth;
        for (std::int64_t line = 0; line < lines; ++line) fused.left(room + line * kRowPitch, length);
      }
    }
  }

  const auto& tile_functions_for(std::int64_t width) const {
    if (width == kTileCols<T>) {
      return a.transposed ? kTileFunctions<T, Layout::kInterleaved, 2> : kTileFunctions<T, Layout::kRows, 2>;
    }
    return a.transposed ? kTileFunctions<T, Layout::kInterleaved, 1> : kTileFunctions<T, Layout::kRows, 1>;
  }
};

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
  if (k <= 0) {
    const T* start = accumulate ? c : residual;
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        c[i * c_stride + j] = (start ? start[i * c_stride + j] : T{0}) + (bias ? bias[j] : T{0});
      }
      if constexpr (Fused::kResult) fused.result(c + i * c_stride, i, 0, n);
    }
    return;
  }
  const Product<T, Fused> product{m, n, k, a, b, c, c_stride, accumulate, bias, residual, fused};
  const std::int64_t down = rows_in_cache<T>() / product.height * product.height;
  const PackedBlocks<T> packed(product.is_packed() ? 0 : packed_size<T>(std::min(n, kAcross), std::min(k, kDeep)));
  for (std::int64_t col = 0; col < n; col += kAcross) {
    for (std::int64_t begin = 0; begin < k; begin += kDeep) {
      const Block block{col, std::min(kAcross, n - col), begin, std::min(kDeep, k - begin)};
      if (!product.is_packed()) product.pack(block, 0, block.across, packed.right);
      for (std::int64_t row = 0; row < m; row += down) {
        product.multiply_rows(block, packed.right, row, std::min(down, m - row), packed.left);
      }
    }
  }
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
