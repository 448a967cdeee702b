#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "tapecache/ops/kernels/attention.h"

/// Where attention's arrays have one head of one sample.
namespace tapecache::kernels::cuda {

constexpr int kTile = 64;  // tokens of a tile

/// [tokens, width] of one head.
template <class Element>
struct Rows {
  Element* first;
  std::int64_t tokens, width, stride;

  __device__ Element& at(std::int64_t token, std::int64_t column) const { return first[token * stride + column]; }
  /// 0 outside.
  template <class T>
  __device__ T value(std::int64_t token, std::int64_t column) const {
    return token < tokens && column < width ? static_cast<T>(at(token, column)) : T{0};
  }
};

/// One head of one sample.
struct Head {
  const Attention& layout;
  const bool* valid;
  std::int64_t sample, head;

  __device__ Head(const Attention& all, const bool* valid_tokens, std::int64_t i)
      : Head(all, valid_tokens, i / all.heads, i % all.heads) {}
  __device__ Head(const Attention& all, const bool* valid_tokens, std::int64_t its_sample, std::int64_t its_head)
      : layout(all),
        valid(valid_tokens ? valid_tokens + its_sample * all.tokens : nullptr),
        sample(its_sample),
        head(its_head) {}

  /// Its queries (0), keys (1) or values (2).
  template <class Element>
  __device__ Rows<Element> part(Element* qkv, int which) const {
    const std::int64_t stride = 3 * layout.heads * layout.width;
    return {qkv + sample * layout.tokens * stride + (which * layout.heads + head) * layout.width, layout.tokens,
            layout.width, stride};
  }
  /// Its columns of y or dy.
  template <class Element>
  __device__ Rows<Element> output(Element* y) const {
    const std::int64_t stride = layout.heads * layout.width;
    return {y + sample * layout.tokens * stride + head * layout.width, layout.tokens, layout.width, stride};
  }
  __device__ std::int64_t row_of(std::int64_t token) const {
    return (sample * layout.heads + head) * layout.tokens + token;
  }
  /// Keys that come before the end of what some query of the tile that begins with `first` may attend to.
  __device__ std::int64_t keys_of(std::int64_t first) const {
    return layout.causal && first + kTile < layout.tokens ? first + kTile : layout.tokens;
  }
  __device__ bool attends(std::int64_t query, std::int64_t key) const {
    return key < layout.tokens && (!layout.causal || key <= query) && (!valid || valid[key]);
  }
};

}  // namespace tapecache::kernels::cuda
