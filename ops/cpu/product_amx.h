#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tapecache/core/dtype.h"
#include "tapecache/ops/cpu/amx.h"
#include "tapecache/ops/cpu/amx_tiles.h"
#include "tapecache/ops/cpu/pack_tiles.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/scratch.h"

/// The product of bf16 matrices by tiles, 2 × 2 of the result at a time. An element begins as what is added to the
/// product and takes 32 terms more with each step, in their order: its bits depend on the terms alone, and a sum that
/// goes on where another product left it has the bits of the whole one, if that had a multiple of 32 terms.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace tile_detail {

constexpr std::int64_t kDepth = 512;    // terms, so that two rows of tiles stay in the first-level cache
constexpr std::int64_t kAcross = 1024;  // columns whose packed block stays in the second-level cache

/// Where the tiles of two rows of tiles of op(A) are.
struct LeftTiles {
  const BFloat16* data;
  std::int64_t down, step, stride;  ///< elements to the lower tile, to the next one, and to a tile's next row
};

/// Where sums begin; at 0 if it is nowhere. The stride may be 0.
struct Start {
  const float* data;
  std::int64_t stride;
};

/// kDown × kAcross tiles of sums over `steps` tiles; those of the right factor lie one after the other, step by step.
template <int kDown, int kAcrossTiles, class Tiles>
void multiply_tiles(Tiles& tiles, std::int64_t steps, const LeftTiles& left, const BFloat16* right, float* c,
                    std::int64_t c_stride, const Start& start) {
  constexpr std::int64_t kBytes = sizeof(float);
  const auto each_sum = [&](const auto& visit) {
    visit.template operator()<0>(0, 0);
    if constexpr (kAcrossTiles == 2) visit.template operator()<1>(0, kTileSide);
    if constexpr (kDown == 2) visit.template operator()<2>(kTileSide, 0);
    if constexpr (kDown == 2 && kAcrossTiles == 2) visit.template operator()<3>(kTileSide, kTileSide);
  };
  for (std::int64_t i = 0; i < kTileSide * kDown; ++i) {  // the next sums
    for (std::int64_t j = 0; j < kAcrossTiles; ++j)
      __builtin_prefetch(c + i * c_stride + (kAcrossTiles + j) * kTileSide, 1);
  }
  each_sum([&]<int kTile>(std::int64_t i, std::int64_t j) {
    if (start.data) tiles.template load<kTile>(start.data + i * start.stride + j, start.stride * kBytes);
    else tiles.template zero<kTile>();
  });
  const BFloat16 *upper = left.data, *lower = left.data + left.down;
  const std::int64_t to_next = left.step, left_stride = left.stride * 2;
  for (std::int64_t step = 0; step < steps;
       ++step, upper += to_next, lower += to_next, right += kAcrossTiles * kTileSize) {
    tiles.template load<6>(right, kTileRowBytes);
    tiles.template load<4>(upper, left_stride);
    tiles.template add_product<0, 4, 6>();
    if constexpr (kAcrossTiles == 2) {
      tiles.template load<7>(right + kTileSize, kTileRowBytes);
      tiles.template add_product<1, 4, 7>();
    }
    if constexpr (kDown == 2) {
      tiles.template load<5>(lower, left_stride);
      tiles.template add_product<2, 5, 6>();
      if constexpr (kAcrossTiles == 2) tiles.template add_product<3, 5, 7>();
    }
  }
  each_sum([&]<int kTile>(std::int64_t i, std::int64_t j) {
    tiles.template store<kTile>(c + i * c_stride + j, c_stride * kBytes);
  });
}

/// The sums of `rows` × `cols` elements, at most 2 × 2 tiles. Those that are no whole tiles are computed beside C.
template <class Tiles>
void multiply_block(Tiles& tiles, std::int64_t rows, std::int64_t cols, std::int64_t steps, const LeftTiles& left,
                    const BFloat16* right, float* c, std::int64_t c_stride, const float* before, const float* bias) {
  constexpr std::int64_t kWide = 2 * kTileSide;
  alignas(64) float beside[kWide * kWide];
  const bool whole = rows % kTileSide == 0 && cols % kTileSide == 0;
  Start start{before ? before : bias, before ? c_stride : 0};
  if (start.data && (!whole || (before && bias))) {
    for (std::int64_t i = 0; i < kWide; ++i) {
      for (std::int64_t j = 0; j < kWide; ++j) {
        const bool there = i < rows && j < cols;
        beside[i * kWide + j] = there ? (before ? before[i * c_stride + j] : 0.0f) + (bias ? bias[j] : 0.0f) : 0.0f;
      }
    }
    start = {beside, kWide};
  }
  const auto multiply = rows > kTileSide
                            ? (cols > kTileSide ? multiply_tiles<2, 2, Tiles> : multiply_tiles<2, 1, Tiles>)
                            : (cols > kTileSide ? multiply_tiles<1, 2, Tiles> : multiply_tiles<1, 1, Tiles>);
  multiply(tiles, steps, left, right, whole ? c : beside, whole ? c_stride : kWide, start);
  if (whole) return;
  for (std::int64_t i = 0; i < rows; ++i) std::memcpy(c + i * c_stride, beside + i * kWide, cols * sizeof(float));
}

/// Asks for a share of what will be the next rows of op(A), part `part` of `parts`.
inline void prefetch_left(const Operand<BFloat16>& a, std::int64_t row, std::int64_t rows, std::int64_t begin,
                          std::int64_t depth, std::int64_t part, std::int64_t parts) {
  constexpr std::int64_t kLine = 32;
  const std::int64_t across = ((a.transposed ? rows : depth) + kLine - 1) / kLine;
  const std::int64_t lines = rows > 0 ? (a.transposed ? depth : rows) * across : 0;
  for (std::int64_t line = lines * part / parts; line < lines * (part + 1) / parts; ++line) {
    const std::int64_t i = line / across, j = line % across * kLine;
    __builtin_prefetch(a.transposed ? a.at(row + j, begin + i) : a.at(row + i, begin + j), 0, 2);
  }
}

/// As the product of f32 matrices, of a depth above 0.
template <class Tiles>
void multiply_by_tiles(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<BFloat16>& a,
                       const Operand<BFloat16>& b, float* c, std::int64_t c_stride, bool accumulate, const float* bias,
                       const float* residual) {
  constexpr std::int64_t kWide = 2 * kTileSide;
  struct Packed;
  BFloat16* const packed_left = thread_scratch<BFloat16, Packed>(kDepth * (kWide + std::min(kAcross, n + kWide)));
  BFloat16* const packed_right = packed_left + kDepth * kWide;
  const Lines rows_of_a{a.data, a.stride, !a.transposed}, columns_of_b{b.data, b.stride, b.transposed};
  Tiles tiles;
  for (std::int64_t col = 0; col < n; col += kAcross) {
    const std::int64_t across = std::min(kAcross, n - col), panels = (across + kWide - 1) / kWide;
    for (std::int64_t begin = 0; begin < k; begin += kDepth) {
      const std::int64_t depth = std::min(kDepth, k - begin), steps = (depth + kTileTerms - 1) / kTileTerms;
      const float* before = begin > 0 || accumulate ? c : residual;
      pack_lines(columns_of_b, col, across, begin, depth, TileOf::kRight, [&](std::int64_t j, std::int64_t step) {
        const std::int64_t panel = j / kWide * kWide, side = across - panel > kTileSide ? 2 : 1;
        return packed_right + panel * steps * kTileTerms + (step * side + (j - panel) / kTileSide) * kTileSize;
      });
      for (std::int64_t row = 0; row < m; row += kWide) {
        const std::int64_t rows = std::min(kWide, m - row);
        LeftTiles left{a.at(row, begin), kTileSide * a.stride, kTileTerms, a.stride};
        // Whole tiles may be where they are, if their rows do not fall into few cache sets.
        if (a.transposed || rows % kTileSide != 0 || depth % kTileTerms != 0 || a.stride % 512 == 0) {
          left = {packed_left, steps * kTileSize, kTileSize, kTileTerms};
          pack_lines(rows_of_a, row, rows, begin, depth, TileOf::kLeft, [&](std::int64_t i, std::int64_t step) {
            return packed_left + (i / kTileSide * steps + step) * kTileSize;
          });
        }
        for (std::int64_t j = 0; j < across; j += kWide) {
          const std::int64_t at = row * c_stride + col + j;
          prefetch_left(a, row + rows, std::min(kWide, m - row - rows), begin, depth, j / kWide, panels);
          multiply_block(tiles, rows, std::min(kWide, across - j), steps, left, packed_right + j * steps * kTileTerms,
                         c + at, c_stride, before ? before + at : nullptr,
                         begin == 0 && bias ? bias + col + j : nullptr);
        }
      }
    }
  }
}

}  // namespace tile_detail

/// Whether bf16 products are computed by the processor's tiles: where there are any, and a small product whose sums are
/// exact in any order came out right.
inline bool multiplies_by_tiles() {
  static const bool answer = [] {
    if (!amx::usable()) return false;
    constexpr std::int64_t kRows = 33, kCols = 49, kTerms = 70;
    BFloat16 a[kRows * kTerms], b[kTerms * kCols];
    for (std::int64_t i = 0; i < kRows * kTerms; ++i) a[i] = BFloat16(static_cast<float>(i * 7 % 31 - 15));
    for (std::int64_t i = 0; i < kTerms * kCols; ++i) b[i] = BFloat16(static_cast<float>(i * 5 % 29 - 14));
    const auto multiply = [&]<class Tiles>(float* c) {
      tile_detail::multiply_by_tiles<Tiles>(kRows, kCols, kTerms, {a, kTerms}, {b, kCols}, c, kCols, false, nullptr,
                                            nullptr);
    };
    float found[kRows * kCols], expected[kRows * kCols];
    multiply.template operator()<AmxTiles>(found);
    multiply.template operator()<ModelTiles>(expected);
    return std::memcmp(found, expected, sizeof(found)) == 0;
  }();
  return answer;
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
