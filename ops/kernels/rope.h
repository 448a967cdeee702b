#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/kernels/mode.h"

/// Rotary position embedding. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// [batch, tokens, heads + others, width], of which the first heads are rotated and the others kept.
struct Rope {
  std::int64_t batch = 0, tokens = 0, heads = 0, others = 0, width = 0;
};

/// Over bf16 and f16 too: computed in f32, and rounded once.
template <class T>
struct RopeKernels {
  // Rotates the pairs of elements i and i + width / 2 of x by a token's angles, whose cosines and, after them, sines
  // are in table [tokens, width]; or back by them. y is another array.
  void (*rope)(const Rope&, bool back, const T* x, const ComputedType<T>* table, T* y, Mode);
};

}  // namespace tapecache::kernels
