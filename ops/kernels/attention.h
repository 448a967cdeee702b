#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/ops/kernels/mode.h"

/// Scaled dot-product attention of all heads. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// Attention on packed [batch, tokens, 3, heads, width] queries, keys and values.
struct Attention {
  std::int64_t batch = 0, tokens = 0, heads = 0, width = 0;
  double scale = 1;
  bool causal = false;
};

template <class T>
struct AttentionKernels {
  // qkv [batch, tokens, 3, heads, width], valid [batch, tokens] or null, y [batch, tokens, heads, width],
  // logsumexp [batch, heads, tokens, 2], in which the scores' is scale · the first + the second. A query that may
  // attend to nothing gets 0.
  void (*attention)(const Attention&, const T* qkv, const bool* valid, T* y, T* logsumexp);
  void (*attention_backward)(const Attention&, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                             const T* dy, T* dqkv, Mode);
};

/// Over bf16 and f16. Sums are taken in f32, and so is everything else before it is rounded.
template <class Low>
requires kLowPrecision<Low>
struct AttentionKernels<Low> {
  // As over f32, with weights rounded before they meet another matrix. A device may fill less of logsumexp, in an
  // order of its own.
  void (*attention)(const Attention&, const Low* qkv, const bool* valid, Low* y, float* logsumexp);
  void (*attention_backward)(const Attention&, const Low* qkv, const bool* valid, const Low* y, const float* logsumexp,
                             const Low* dy, Low* dqkv, Mode);
};

}  // namespace tapecache::kernels
