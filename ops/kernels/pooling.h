#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/mode.h"

/// One vector a sample from the tokens of a sequence. All arrays are contiguous and row-major.
namespace tapecache::kernels {

template <class T>
struct PoolingKernels {
  // x [batch, tokens, width] to y [batch, width] over the valid tokens (all where `valid` is null). A sample without
  // a valid token gets 0. argmax [batch, width] is the token of each maximum, -1 for none.
  void (*mean_pool)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y);
  void (*mean_pool_backward)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const bool* valid,
                             const T* dy, T* dx, Mode);
  void (*max_pool)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid, T* y,
                   std::int64_t* argmax);
  void (*max_pool_backward)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* argmax,
                            const T* dy, T* dx, Mode);
  // index[i] is the last valid token of sample i, 0 where there is none.
  void (*last_token)(std::int64_t batch, std::int64_t tokens, const bool* valid, std::int64_t* index);
  // index[i] is the first token of sample i that is valid (any where `valid` is null) and, where `ids` is not null, has
  // this id; -1 where there is none.
  void (*first_token)(std::int64_t batch, std::int64_t tokens, const bool* valid, const std::int64_t* ids,
                      std::int64_t id, std::int64_t* index);
  // Positions [batch, tokens] of the valid tokens, counted from `first`; first - 1 for padding.
  void (*token_positions)(std::int64_t batch, std::int64_t tokens, std::int64_t first, const bool* valid,
                          std::int64_t* position);
  // y[i] = x[i, index[i]]; backward writes 0 to the other tokens.
  void (*select_token)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                       const T* x, T* y);
  void (*select_token_backward)(std::int64_t batch, std::int64_t tokens, std::int64_t width, const std::int64_t* index,
                                const T* dy, T* dx, Mode);
};

}  // namespace tapecache::kernels
