#pragma once

#include <immintrin.h>

#include "tapecache/core/dtype.h"
#include "tapecache/ops/cpu/product.h"

/// The product of bf16 matrices by VDPBF16PS, which adds two terms at a time and takes subnormal numbers for 0.
/// Compiled wherever AVX-512 is; not to be called where the processor has no AVX512-BF16.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT::product_detail {

// These alone are compiled for an instruction that the rest of this code may not use.
#define TAPECACHE_AVX512_BF16 [[gnu::target("avx512bf16")]]

using Words [[gnu::vector_size(kVectorBytes)]] = std::int16_t;  // 32 bf16

constexpr int kPairRows = kTileRows, kPairCols = kTileCols<float>;

/// Two terms beside each other, as VDPBF16PS takes them.
struct Pair {
  BFloat16 first, second;
};

TAPECACHE_AVX512_BF16 inline __m512bh as_bf16(const void* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}
TAPECACHE_AVX512_BF16 inline __m512bh repeat(const BFloat16* pair) {
  std::int32_t word;
  std::memcpy(&word, pair, sizeof(word));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(word));
}

/// As multiply_tile, over `pairs` pairs of terms. Rows of a are `a_row` elements apart, its pairs `a_step`.
template <int kRows>
TAPECACHE_AVX512_BF16 void multiply_pairs(std::int64_t pairs, const BFloat16* a, std::int64_t a_row,
                                          std::int64_t a_step, const Pair* b, float* c, std::int64_t c_stride,
                                          std::int64_t cols, const float* bias, const float* before) {
  for (int i = 0; i < kRows; ++i) {
    __builtin_prefetch(c + i * c_stride, 1);
    __builtin_prefetch(c + i * c_stride + kLanes<float>, 1);
  }
  __m512 sum[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (std::int64_t p = 0; p < pairs; ++p) {
    const __m512bh right0 = as_bf16(b + p * kPairCols), right1 = as_bf16(b + p * kPairCols + kLanes<float>);
    const BFloat16* left = a + p * a_step;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512bh factor = repeat(left + i * a_row);
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], factor, right0);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], factor, right1);
    }
  }
  const auto low = static_cast<__mmask16>(cols >= 16 ? 0xffff : (1 << cols) - 1);
  const auto high = static_cast<__mmask16>(cols >= 32 ? 0xffff : cols <= 16 ? 0 : (1 << (cols - 16)) - 1);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < 2; ++v) {
      const __mmask16 mask = v == 0 ? low : high;
      float* to = c + i * c_stride + v * 16;
      __m512 value = sum[i][v];
      if (before) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, before + i * c_stride + v * 16), value);
      if (bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias + v * 16));
      _mm512_mask_storeu_ps(to, mask, value);
    }
  }
}

using PairsFunction = void (*)(std::int64_t, const BFloat16*, std::int64_t, std::int64_t, const Pair*, float*,
                               std::int64_t, std::int64_t, const float*, const float*);
template <std::size_t... kIndex>
constexpr std::array<PairsFunction, kPairRows> pairs_functions(std::index_sequence<kIndex...>) {
  return {multiply_pairs<static_cast<int>(kIndex) + 1>...};
}
inline constexpr auto kPairsFunctions = pairs_functions(std::make_index_sequence<kPairRows>());

/// Pairs of two rows, 32 columns of them.
inline void interleave(const BFloat16* row0, const BFloat16* row1, Pair* to) {
  Words first, second, even, odd;
  std::memcpy(&first, row0, sizeof(first));
  std::memcpy(&second, row1, sizeof(second));
  Words low, high;
  for (int i = 0; i < 32; ++i) {
    low[i] = static_cast<std::int16_t>(i / 2 + (i % 2) * 32);
    high[i] = static_cast<std::int16_t>(i / 2 + 16 + (i % 2) * 32);
  }
  even = select(first, second, low);
  odd = select(first, second, high);
  std::memcpy(static_cast<void*>(to), &even, sizeof(even));
  std::memcpy(static_cast<void*>(to + 16), &odd, sizeof(odd));
}

/// Terms begin … begin + depth of `rows` rows of op(A) from `first`, beside each other for each pair.
inline void pack_left_pairs(const Operand<BFloat16>& a, std::int64_t first, std::int64_t rows, std::int64_t begin,
                            std::int64_t depth, Pair* to) {
  std::int64_t p = 0;
  if (a.transposed) {
    const auto mask = static_cast<__mmask16>((1 << rows) - 1);
    for (; p + 2 <= depth; p += 2, to += kPairRows) {
      const auto widened = [&](std::int64_t term) {
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, a.at(first, begin + term)));
      };
      _mm512_mask_storeu_epi32(to, mask, _mm512_or_si512(widened(p), _mm512_slli_epi32(widened(p + 1), 16)));
    }
  }
  for (; p < depth; p += 2, to += kPairRows) {
    for (std::int64_t i = 0; i < rows; ++i) {
      to[i].first = *a.at(first + i, begin + p);
      to[i].second = p + 1 < depth ? *a.at(first + i, begin + p + 1) : BFloat16();
    }
  }
}

/// Columns first … first + cols of op(B) as pairs of 32 columns, those that are not there 0.
inline void pack_right_pairs(const Operand<BFloat16>& b, std::int64_t begin, std::int64_t depth, std::int64_t first,
                             std::int64_t cols, Pair* to) {
  const std::int64_t whole = depth / 2 * 2;
  std::int64_t p = 0;
  if (cols == kPairCols && !b.transposed) {
    for (; p < whole; p += 2) interleave(b.at(begin + p, first), b.at(begin + p + 1, first), to + p / 2 * kPairCols);
  } else if (cols == kPairCols && b.stride % 2 == 0) {
    // A pair lies together already: a transpose of 32-bit words.
    for (; p + 2 * kLanes<float> <= whole; p += 2 * kLanes<float>) {
      for (int j = 0; j < kPairCols; j += kLanes<float>) {
        transpose_square(reinterpret_cast<const float*>(b.at(begin + p, first + j)), b.stride / 2,
                         reinterpret_cast<float*>(to + p / 2 * kPairCols + j), kPairCols);
      }
    }
  }
  for (; p < depth; p += 2) {
    for (std::int64_t j = 0; j < kPairCols; ++j) {
      Pair& pair = to[p / 2 * kPairCols + j];
      pair.first = j < cols ? *b.at(begin + p, first + j) : BFloat16();
      pair.second = j < cols && p + 1 < depth ? *b.at(begin + p + 1, first + j) : BFloat16();
    }
  }
}

inline void multiply_by_pairs(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<BFloat16>& a,
                              const Operand<BFloat16>& b, float* c, std::int64_t c_stride, bool accumulate,
                              const float* bias, const float* residual) {
  constexpr std::int64_t kTerms = 2 * kDepth;
  const PackedBlocks<float> packed;
  auto* packed_left = reinterpret_cast<Pair*>(packed.left);
  auto* packed_right = reinterpret_cast<Pair*>(packed.right);
  const std::int64_t panels = (m + kPairRows - 1) / kPairRows, height = (m + panels - 1) / panels;
  for (std::int64_t col = 0; col < n; col += kAcross) {
    const std::int64_t across = std::min(kAcross, n - col);
    for (std::int64_t begin = 0; begin < k; begin += kTerms) {
      const std::int64_t depth = std::min(kTerms, k - begin), pairs = (depth + 1) / 2;
      const float* before = begin > 0 || accumulate ? c : residual;
      for (std::int64_t j = 0; j < across; j += kPairCols) {
        pack_right_pairs(b, begin, depth, col + j, std::min<std::int64_t>(kPairCols, across - j),
                         packed_right + j * pairs);
      }
      for (std::int64_t row = 0; row < m; row += height) {
        const std::int64_t rows = std::min(height, m - row);
        // Rows that would fall into one cache set are packed, and those whose last pair is no pair.
        const bool in_place = !a.transposed && depth % 2 == 0 && a.stride * 2 % 4096 != 0;
        if (!in_place) pack_left_pairs(a, row, rows, begin, depth, packed_left);
        const BFloat16* left = in_place ? a.at(row, begin) : &packed_left->first;
        for (std::int64_t j = 0; j < across; j += kPairCols) {
          const std::int64_t at = row * c_stride + col + j;
          kPairsFunctions[static_cast<std::size_t>(rows - 1)](
              pairs, left, in_place ? a.stride : 2, in_place ? 2 : 2 * kPairRows, packed_right + j * pairs, c + at,
              c_stride, std::min<std::int64_t>(kPairCols, across - j), begin == 0 && bias ? bias + col + j : nullptr,
              before ? before + at : nullptr);
        }
      }
    }
  }
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT::product_detail
