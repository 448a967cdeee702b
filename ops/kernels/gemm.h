#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/kernels/mode.h"
#include "tapecache/ops/kernels/unary.h"

/// Products of matrices, with what is joined to them. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// C = op(A) op(B) for `batch` matrices. op(A) is [m, k], op(B) [k, n], C [m, n]; with transpose_a, A is stored
/// [k, m]; with transpose_b, B is stored [n, k]. A batch stride of 0 repeats the matrix. The pitches are the distances
/// between rows as they are stored, 0 where no gap is between them.
struct Gemm {
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  std::int64_t stride_a = 0, stride_b = 0, stride_c = 0;
  std::int64_t pitch_a = 0, pitch_b = 0, pitch_c = 0;
  bool packed_b = false;  ///< B is what the backend's pack_factor has made of op(B); batch 1

  std::int64_t row_stride_a() const { return pitch_a != 0 ? pitch_a : transpose_a ? m : k; }
  std::int64_t row_stride_b() const { return pitch_b != 0 ? pitch_b : transpose_b ? k : n; }
  std::int64_t row_stride_c() const { return pitch_c != 0 ? pitch_c : n; }
};

/// Where a function f stands in a product: C = f(op(A)) op(B), C = op(A) f(op(B)), or C = op(A) op(B) · f'(at).
enum class Activated { kLeft, kRight, kDerivative };

template <class T>
struct GemmKernels {
  // bias [n] is added to each row, and with Mode::kWrite residual (in the layout of C) to C, where they are not null.
  void (*gemm)(const Gemm&, const T* a, const T* b, const T* bias, const T* residual, T* c, Mode);
  // With an element-wise function f (which has no parameters a and b) joined to one product, batch 1. `at` [m, n] is
  // read by kDerivative alone, which does not accumulate.
  void (*activated_gemm)(const Gemm&, UnaryOp f, Activated, const T* a, const T* b, const T* bias, const T* residual,
                         const T* at, T* c, Mode);
  // Packs op(B) into packed_elements(n, k) elements, as its products with many A take it fastest; their bits are the
  // same. Both are null where a backend packs nothing.
  std::int64_t (*packed_elements)(std::int64_t n, std::int64_t k);
  void (*pack_factor)(const Gemm&, const T* b, T* packed);
};

/// Over bf16 and f16. Sums are taken in f32, and so is everything else before it is rounded.
template <class Low>
requires kLowPrecision<Low>
struct GemmKernels<Low> {
  // As over f32; gemm_rounded has no residual and rounds C.
  void (*gemm)(const Gemm&, const Low* a, const Low* b, const float* bias, const float* residual, float* c, Mode);
  void (*gemm_rounded)(const Gemm&, const Low* a, const Low* b, const float* bias, Low* c, Mode);
  // C = op(A) op(B) f'(at) for `at` in the layout of C, rounded; and value = f(at), unless that is null. Batch 1, and C
  // has no gaps between its rows.
  void (*derivative_gemm)(const Gemm&, UnaryOp f, const Low* a, const Low* b, const Low* at, Low* c, Low* value);
  // dW = dYᵀ X and db = Σ over the rows of dY, the Gemm being that of dW. Batch 1.
  void (*parameter_gradients)(const Gemm&, const Low* dy, const Low* x, float* dw, Mode dw_mode, float* db,
                              Mode db_mode);
};

}  // namespace tapecache::kernels
