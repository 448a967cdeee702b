#pragma once

#include <algorithm>

#include "tapecache/core/dtype.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/product_amx.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define TAPECACHE_MAY_HAVE_AVX512_BF16
#include "tapecache/ops/cpu/product_avx512_bf16.h"
#endif

/// The serial product of bf16 or f16 matrices with f32 sums: of bf16 by tiles or by pairs of terms where the processor
/// has instructions for that, whatever the sizes; else with operands that are widened. An element's bits do not depend
/// on where it stands, as in product.h.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace product_detail {

/// By f32 products of blocks, whose operands are widened while they are in the second-level cache.
template <class Low>
void multiply_widened(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<Low>& a, const Operand<Low>& b,
                      float* c, std::int64_t c_stride, bool accumulate, const float* bias, const float* residual) {
  constexpr std::int64_t kSide = 504, kTerms = kDepth;
  static_assert(kTerms <= kSide);
  constexpr std::int64_t kBetween = 16;  // or a block's rows would fall into one cache set
  struct Wide;
  float* const wide_left = thread_scratch<float, Wide>(2 * kSide * (kSide + kBetween));
  float* const wide_right = wide_left + kSide * (kSide + kBetween);
  const auto block = [](const Operand<Low>& x, std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols,
                        float* to) {
    const std::int64_t lines = x.transposed ? cols : rows, length = x.transposed ? rows : cols;
    const std::int64_t pitch = length + kBetween;
    for (std::int64_t i = 0; i < lines; ++i) {
      map(
          length, to + i * pitch, [](auto v) TAPECACHE_INLINE { return v; }, x.at(row, col) + i * x.stride);
    }
    return Operand<float>{to, pitch, x.transposed};
  };
  for (std::int64_t col = 0; col < n; col += kSide) {
    const std::int64_t cols = std::min(kSide, n - col);
    for (std::int64_t begin = 0; begin < k; begin += kTerms) {
      const std::int64_t depth = std::min(kTerms, k - begin);
      const Operand<float> right = block(b, begin, depth, col, cols, wide_right);
      for (std::int64_t row = 0; row < m; row += kSide) {
        const std::int64_t rows = std::min(kSide, m - row), at = row * c_stride + col;
        multiply<float>(rows, cols, depth, block(a, row, rows, begin, depth, wide_left), right, c + at, c_stride,
                        accumulate || begin > 0, begin == 0 && bias ? bias + col : nullptr,
                        begin == 0 && residual ? residual + at : nullptr);
      }
    }
  }
}

}  // namespace product_detail

/// As the product of f32 matrices.
inline void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<BFloat16>& a,
                     const Operand<BFloat16>& b, float* c, std::int64_t c_stride, bool accumulate,
                     const float* bias = nullptr, const float* residual = nullptr) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) return multiply<float>(m, n, k, {}, {}, c, c_stride, accumulate, bias, residual);
  if (multiplies_by_tiles()) {
    tile_detail::multiply_by_tiles<AmxTiles>(m, n, k, a, b, c, c_stride, accumulate, bias, residual);
    return;
  }
#if defined(TAPECACHE_MAY_HAVE_AVX512_BF16)
  if (__builtin_cpu_supports("avx512bf16")) {
    product_detail::multiply_by_pairs(m, n, k, a, b, c, c_stride, accumulate, bias, residual);
    return;
  }
#endif
  product_detail::multiply_widened(m, n, k, a, b, c, c_stride, accumulate, bias, residual);
}

inline void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<Float16>& a,
                     const Operand<Float16>& b, float* c, std::int64_t c_stride, bool accumulate,
                     const float* bias = nullptr, const float* residual = nullptr) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) return multiply<float>(m, n, k, {}, {}, c, c_stride, accumulate, bias, residual);
  product_detail::multiply_widened(m, n, k, a, b, c, c_stride, accumulate, bias, residual);
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
