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
    const std::int64_t key_heads = layout.heads / layout.group, stride = (layout.heads + 2 * key_heads) * layout.width;
    const std::int64_t at = which == 0 ? head : layout.heads + (which - 1) * key_heads + head / layout.group;
    return {qkv + sample * layout.tokens * stride + at * layout.width, layout.tokens, layout.width, stride};
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
    return layout.causal ? before_end(first + kTile) : before_end(first + kTile + layout.window);
  }
  /// The beginning of the first tile of keys that some query of that tile may attend to.
  __device__ std::int64_t first_key(std::int64_t first) const { return tile_of(first - layout.window); }
  /// The same of the queries that may attend to some key of a tile.
  __device__ std::int64_t first_query(std::int64_t first) const {
    return layout.causal ? first : tile_of(first - layout.window);
  }
  __device__ std::int64_t queries_of(std::int64_t first) const { return before_end(first + kTile + layout.window); }
  __device__ bool attends(std::int64_t query, std::int64_t key) const {
    const std::int64_t distance = query < key ? key - query : query - key;
    return key < layout.tokens && (!layout.causal || key <= query) && distance <= layout.window &&
           (!valid || valid[key]);
  }

 private:
  __device__ std::int64_t before_end(std::int64_t token) const { return token < layout.tokens ? token : layout.tokens; }
  __device__ static std::int64_t tile_of(std::int64_t token) { return token < 0 ? 0 : token / kTile * kTile; }
};

}  // namespace tapecache::kernels::cuda
