#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "tapecache/core/dtype.h"

/// Packs the factors of a bf16 product into tiles. Either factor is lines of terms, the rows of op(A) or the columns of
/// op(B). A tile has 32 terms of 16 lines, two terms in a word: a left one has a row of 16 words for each line, a right
/// one for each pair of terms.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT::tile_detail {

constexpr std::int64_t kTileSide = 16, kTileTerms = 32, kTileRowBytes = 64, kTileSize = kTileSide * kTileTerms;

enum class TileOf { kLeft, kRight };

struct Lines {
  const BFloat16* data;
  std::int64_t stride;
  bool terms_together;  ///< term p of line i is data[i · stride + p], else data[p · stride + i]
};

using Words4 [[gnu::vector_size(16)]] = std::uint32_t;
using Words8 [[gnu::vector_size(32)]] = std::uint32_t;
using Words16 [[gnu::vector_size(64)]] = std::uint32_t;
using Halves16 [[gnu::vector_size(32)]] = std::uint16_t;

#if defined(__AVX512F__)
constexpr __mmask16 kAllWords = 0xffff;  // since GCC warns of the undefined operands of its unmasked functions
#endif

// By reference, since vectors wider than the processor's are passed in ways that differ.
template <class V>
void load_words(const void* from, V& to) {
  std::memcpy(&to, from, sizeof(to));
}
/// Four pieces of four words, `stride` bytes apart.
inline void join_pieces(const char* from, std::int64_t stride, Words16& to) {
  Words4 piece[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) load_words(from + i * stride, piece[i]);
#if defined(__AVX512F__)  // inserted from memory, which costs no shuffle
  __m512i joined = _mm512_zextsi128_si512(reinterpret_cast<__m128i>(piece[0]));
  joined = _mm512_maskz_inserti32x4(kAllWords, joined, reinterpret_cast<__m128i>(piece[1]), 1);
  joined = _mm512_maskz_inserti32x4(kAllWords, joined, reinterpret_cast<__m128i>(piece[2]), 2);
  to = reinterpret_cast<Words16>(_mm512_maskz_inserti32x4(kAllWords, joined, reinterpret_cast<__m128i>(piece[3]), 3));
#else
  const Words8 low = __builtin_shufflevector(piece[0], piece[1], 0, 1, 2, 3, 4, 5, 6, 7);
  const Words8 high = __builtin_shufflevector(piece[2], piece[3], 0, 1, 2, 3, 4, 5, 6, 7);
  to = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
}
inline void widen_halves(const void* from, Words16& to) {
  Halves16 halves;
  load_words(from, halves);
#if defined(__AVX512F__)  // which GCC would make of four pieces
  to = reinterpret_cast<Words16>(_mm512_maskz_cvtepu16_epi32(kAllWords, reinterpret_cast<__m256i>(halves)));
#else
  to = __builtin_convertvector(halves, Words16);
#endif
}
inline void interleave_low(const Words16& a, const Words16& b, Words16& to) {
  to = __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
inline void interleave_high(const Words16& a, const Words16& b, Words16& to) {
  to = __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}

/// 16 × 16 words, whose rows are `stride` bytes apart. Four rows of four words each make a vector, which is transposed
/// within by twos.
inline void transpose_words(const void* from, std::int64_t stride, void* to) {
  const auto* bytes = static_cast<const char*>(from);
#pragma GCC unroll 4
  for (int part = 0; part < 4; ++part) {
    Words16 rows[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) join_pieces(bytes + i * stride + 16 * part, 4 * stride, rows[i]);
    Words16 even_low, even_high, odd_low, odd_high, result[4];
    interleave_low(rows[0], rows[2], even_low);
    interleave_high(rows[0], rows[2], even_high);
    interleave_low(rows[1], rows[3], odd_low);
    interleave_high(rows[1], rows[3], odd_high);
    interleave_low(even_low, odd_low, result[0]);
    interleave_high(even_low, odd_low, result[1]);
    interleave_low(even_high, odd_high, result[2]);
    interleave_high(even_high, odd_high, result[3]);
    std::memcpy(static_cast<char*>(to) + 4 * part * kTileRowBytes, result, sizeof(result));
  }
}

/// For each pair of terms a row of 16 words.
inline void interleave_terms(const BFloat16* from, std::int64_t stride, BFloat16* to) {
#pragma GCC unroll 4
  for (std::int64_t pair = 0; pair < kTileSide; ++pair) {
    Words16 first, second;
    widen_halves(from + 2 * pair * stride, first);
    widen_halves(from + (2 * pair + 1) * stride, second);
    const Words16 both = first | second << 16;
    std::memcpy(static_cast<void*>(to + pair * kTileTerms), &both, sizeof(both));
  }
}

/// One tile of `lines` lines and `terms` terms; the others are 0.
inline void pack_tile(const BFloat16* from, const Lines& x, std::int64_t lines, std::int64_t terms, TileOf which,
                      BFloat16* to) {
  alignas(64) BFloat16 copy[kTileSize];
  std::int64_t stride = x.stride;
  if (lines < kTileSide || terms < kTileTerms) {
    const std::int64_t rows = x.terms_together ? lines : terms, cols = x.terms_together ? terms : lines;
    stride = x.terms_together ? kTileTerms : kTileSide;
    std::memset(static_cast<void*>(copy), 0, sizeof(copy));
    for (std::int64_t i = 0; i < rows; ++i)
      std::memcpy(copy + i * stride, from + i * x.stride, cols * sizeof(BFloat16));
    from = copy;
  }
  if (x.terms_together && which == TileOf::kRight) {
    transpose_words(from, stride * 2, to);
  } else if (x.terms_together) {
    for (std::int64_t i = 0; i < kTileSide; ++i) std::memcpy(to + i * kTileTerms, from + i * stride, kTileRowBytes);
  } else if (which == TileOf::kRight) {
    interleave_terms(from, stride, to);
  } else {
    alignas(64) BFloat16 pairs[kTileSize];
    interleave_terms(from, stride, pairs);
    transpose_words(pairs, kTileRowBytes, to);
  }
}

/// Terms begin … begin + depth of `count` lines from `first`. Of each 16 lines there is tile after tile in `place(line,
/// step)`.
template <class Place>
void pack_lines(const Lines& x, std::int64_t first, std::int64_t count, std::int64_t begin, std::int64_t depth,
                TileOf which, const Place& place) {
  const auto pack = [&](std::int64_t i, std::int64_t p) {
    const std::int64_t line = first + i, term = begin + p;
    const BFloat16* from = x.data + (x.terms_together ? line * x.stride + term : term * x.stride + line);
    pack_tile(from, x, std::min(kTileSide, count - i), std::min(kTileTerms, depth - p), which,
              place(i, p / kTileTerms));
  };
  // In the order in which they lie in memory.
  if (x.terms_together) {
    for (std::int64_t i = 0; i < count; i += kTileSide) {
      for (std::int64_t p = 0; p < depth; p += kTileTerms) pack(i, p);
    }
  } else {
    for (std::int64_t p = 0; p < depth; p += kTileTerms) {
      for (std::int64_t i = 0; i < count; i += kTileSide) pack(i, p);
    }
  }
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT::tile_detail
