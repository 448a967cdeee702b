#pragma once

#include <algorithm>

#include "tapecache/core/dtype.h"
#include "tapecache/ops/cpu/product.h"
#include "tapecache/ops/cpu/product_amx.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define TAPECACHE_MAY_HAVE_AVX512_BF16
#include "tapecache/ops/cpu/product_avx512_bf16.h"
#endif

/// The serial product of bf16 or f16 matrices with f32 sums: of bf16 by tiles or by pairs of terms where the processor has
/// instructions for that, whatever the sizes; else with operands that are widened. An element's bits do not depend on where
/// it stands, as in product.h.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace product_detail {

template <class Low>
void multiply_widened(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<Low>& a, const Operand<Low>& b, float* c,
                      std::int64_t c_stride, bool accumulate, const float* bias, const float* residual) {
  struct Left;
  struct Right;
  const auto widen = [](const Operand<Low>& x, std::int64_t rows, std::int64_t cols, float* to) {
    const std::int64_t lines = x.transposed ? cols : rows, length = x.transposed ? rows : cols;
    for (std::int64_t i = 0; i < lines; ++i) {
      for (std::int64_t j = 0; j < length; ++j) to[i * length + j] = static_cast<float>(x.data[i * x.stride + j]);
    }
    return Operand<float>{to, length, x.transposed};
  };
  const Operand<float> wide_a = widen(a, m, k, thread_scratch<float, Left>(m * k));
  const Operand<float> wide_b = widen(b, k, n, thread_scratch<float, Right>(k * n));
  cpu::multiply<float>(m, n, k, wide_a, wide_b, c, c_stride, accumulate, bias, residual);
}

}  // namespace product_detail

/// As the product of f32 matrices.
inline void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<BFloat16>& a,
                     const Operand<BFloat16>& b, float* c, std::int64_t c_stride, bool accumulate,
                     const float* bias = nullptr, const float* residual = nullptr) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) {
    multiply<float>(m, n, k, {}, {}, c, c_stride, accumulate, bias, residual);
    return;
  }
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

inline void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const Operand<Float16>& a, const Operand<Float16>& b,
                     float* c, std::int64_t c_stride, bool accumulate, const float* bias = nullptr,
                     const float* residual = nullptr) {
  if (m > 0 && n > 0) product_detail::multiply_widened(m, n, k, a, b, c, c_stride, accumulate, bias, residual);
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
