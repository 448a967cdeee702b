#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/ops/kernels/mode.h"
#include "tapecache/ops/kernels/unary.h"

/// Gated activations. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// Over bf16 and f16 too: computed in f32, and rounded once.
template <class T>
struct GateKernels {
  // y [rows, width] = f(a) · b of x [rows, 2 · width], whose rows are a and b side by side; f is one of Activation's.
  void (*gate)(UnaryOp, std::int64_t rows, std::int64_t width, const T* x, T* y);
  // dx [rows, 2 · width] = dy · b · f'(a) and dy · f(a).
  void (*gate_backward)(UnaryOp, std::int64_t rows, std::int64_t width, const T* x, const T* dy, T* dx, Mode);
};

}  // namespace tapecache::kernels
