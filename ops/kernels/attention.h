#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/kernels/mode.h"

/// Scaled dot-product attention of all heads. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// Attention on packed queries, keys and values [batch, tokens, heads + 2 (heads / group), width].
struct Attention {
  static constexpr std::int64_t kNoWindow = std::int64_t{1} << 40;

  std::int64_t batch = 0, tokens = 0, heads = 0, width = 0;
  double scale = 1;
  bool causal = false;
  std::int64_t group = 1;           // heads of queries that share a head of keys and of values
  std::int64_t window = kNoWindow;  // how far from a token those are that it may attend to

  bool is_plain() const { return group == 1 && window == kNoWindow; }
};

template <class T>
struct AttentionKernels {
  // qkv [batch, tokens, heads + 2 (heads / group), width], valid [batch, tokens] or null, y [batch, tokens, heads,
  // width], logsumexp [batch, heads, tokens, 2], in which the scores' is scale · the first + the second. A query that
  // may attend to nothing gets 0.
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
