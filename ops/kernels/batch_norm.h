#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/mode.h"

/// Batch norm, and the statistics of channels. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// x [outer, count, inner] by channel: the axis of `count`.
struct Channels {
  std::int64_t outer = 0, count = 0, inner = 0;
};

template <class T>
struct BatchNormKernels {
  // Mean and biased variance of each channel of x; there is at least one value a channel.
  void (*channel_statistics)(const Channels&, const T* x, T* mean, T* variance);
  // y = (x - mean) / √(variance + ε) · γ + β, all four by channel. In backward `own_statistics` says that mean and
  // variance are those of x, so that dx goes through them too. Any of dx, dgamma, dbeta may be null; dgamma and dbeta
  // may be one array: dgamma is finished first.
  void (*batch_norm)(const Channels&, double epsilon, const T* x, const T* gamma, const T* beta, const T* mean,
                     const T* variance, T* y);
  void (*batch_norm_backward)(const Channels&, double epsilon, bool own_statistics, const T* x, const T* gamma,
                              const T* mean, const T* variance, const T* dy, T* dx, Mode dx_mode, T* dgamma,
                              Mode dgamma_mode, T* dbeta, Mode dbeta_mode);
};

}  // namespace tapecache::kernels
