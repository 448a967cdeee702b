#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/mode.h"

/// Steps of optimisers, and norms of gradients. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// Numbers of an update that are read when its kernel runs, from its device's memory, one element each: so a step can be
/// replayed with others. Those that are null are the host's. Where `non_finite` is not null and not 0, nothing is changed.
struct LateNumbers {
  const double *learning_rate = nullptr, *gradient_scale = nullptr, *non_finite = nullptr;
};

/// One step of AdamW (Loshchilov & Hutter 2019).
struct AdamW {
  double learning_rate, beta1, beta2, epsilon, gradient_scale;
  LateNumbers late = {};
};

struct Sgd {
  double learning_rate, momentum, gradient_scale;
  LateNumbers late = {};
};

/// What an update reads and changes, for many arrays at once. `first` is the number of elements in the arrays before it;
/// the corrections are 1 - βᵗ. Where `steps` is not null, t is counted there, and the corrections follow from it.
template <class T>
struct AdamWArrays {
  std::int64_t first, size;
  const T* gradient;
  T *value, *m, *v;
  double weight_decay, correction1, correction2;
  std::int64_t* steps = nullptr;
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
  // Optimiser steps over `count` arrays of at least one element, in place and in one pass. The gradient is multiplied by
  // gradient_scale first.
  void (*adamw)(const AdamW&, std::int64_t count, const AdamWArrays<T>*);
  void (*sgd)(const Sgd&, std::int64_t count, const SgdArrays<T>*);
  // The sum of squares over `count` arrays, and the number of elements that are not finite, in f64; `partials` holds one
  // element a block.
  void (*squared_norm)(std::int64_t count, const ConstArray<T>*, double* partials, double* sum, Mode);
  void (*count_non_finite)(std::int64_t count, const ConstArray<T>*, double* partials, double* number, Mode);
  // Multiplies the arrays by max_norm / norm where that is below 1, the norm being the root of squared_norm.
  void (*clip)(std::int64_t count, const MutableArray<T>*, const double* squared_norm, double max_norm);
};

}  // namespace tapecache::kernels
