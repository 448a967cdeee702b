#pragma once

#include <cstdint>

#include "tapecache/core/random.h"
#include "tapecache/ops/kernels/mode.h"

/// Dropout and stochastic depth, whose draws are keyed by sample and element. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// The samples that rows belong to: `ids` where it is not null, else first, first + 1, …
struct Samples {
  std::int64_t first = 0, count = 0;
  const std::int64_t* ids = nullptr;
};

template <class T>
struct DropoutKernels {
  // y = x · keep / (1 - p) with keep drawn by (key, sample, element); its own derivative.
  void (*dropout)(const RandomKey&, const Samples&, std::int64_t per_sample, double probability, const T* x, T* y,
                  Mode);
  // The same with one draw a sample, that of its element 0.
  void (*drop_path)(const RandomKey&, const Samples&, std::int64_t per_sample, double probability, const T* x, T* y,
                    Mode);
  // y [samples, per_sample] in [0, 1), by (key, sample, element).
  void (*sample_uniform)(const RandomKey&, const Samples&, std::int64_t per_sample, T* y);
};

}  // namespace tapecache::kernels
