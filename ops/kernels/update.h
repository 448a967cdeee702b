#pragma once

#include <cstdint>

#include "tapecache/core/number.h"
#include "tapecache/ops/kernels/mode.h"

/// Steps of optimisers, and norms of gradients. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// What changes from one step of an optimiser to the next. The gradient is multiplied by its scale first; where
/// `skip_if` is not 0, nothing is changed.
struct StepNumbers {
  tapecache::detail::KernelNumber<double> learning_rate, gradient_scale, skip_if;
};

/// AdamW (Loshchilov & Hutter 2019).
struct AdamW {
  double beta1, beta2, epsilon;
};

struct Sgd {
  double momentum;
};

/// What an update reads and changes, for many arrays at once. `first` is the number of elements in the arrays before
/// it; `steps` are those taken before, which are read and counted at `steps_on_device` where that is not null.
template <class T>
struct AdamWArrays {
  std::int64_t first, size;
  const T* gradient;
  T *value, *m, *v;
  double weight_decay;
  std::int64_t steps;
  std::int64_t* steps_on_device = nullptr;
};

template <class T>
struct SgdArrays {
  std::int64_t first, size;
  const T* gradient;
  T *value, *velocity;
  double weight_decay;
};

template <class T>
struct ConstArray {
  std::int64_t first, size;
  const T* data;
};

template <class T>
struct MutableArray {
  std::int64_t first, size;
  T* data;
};

/// Elements of all arrays together that one block of an update, and one partial sum, is of.
constexpr std::int64_t kUpdateBlock = 16384;

template <class T>
struct UpdateKernels {
  // Optimiser steps over `count` arrays of at least one element, in place and in one pass.
  void (*adamw)(const StepNumbers&, const AdamW&, std::int64_t count, const AdamWArrays<T>*);
  void (*sgd)(const StepNumbers&, const Sgd&, std::int64_t count, const SgdArrays<T>*);
  // The sum of squares over `count` arrays, and the number of elements that are not finite, in f64; `partials` holds
  // one element a block.
  void (*squared_norm)(std::int64_t count, const ConstArray<T>*, double* partials, double* sum, Mode);
  void (*count_non_finite)(std::int64_t count, const ConstArray<T>*, double* partials, double* number, Mode);
  // Multiplies the arrays by max_norm / norm where that is below 1, the norm being the root of squared_norm.
  void (*clip)(std::int64_t count, const MutableArray<T>*, const double* squared_norm, double max_norm);
};

}  // namespace tapecache::kernels
