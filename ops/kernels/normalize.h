#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/kernels/mode.h"

/// Layer norm and L2 normalisation of rows. All arrays are contiguous and row-major.
namespace tapecache::kernels {

template <class T>
struct NormalizeKernels {
  // Rows of [rows, cols]. Where residual is not null, x + residual is written to `sum` and normalised. In backward,
  // where x stands for that sum, any of dx, dgamma, dbeta may be null. They may be one array: dx is finished before
  // dgamma is touched, and that before dbeta.
  void (*layer_norm)(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* residual,
                     const T* gamma, const T* beta, T* sum, T* y, T* mean, T* rstd);
  void (*layer_norm_backward)(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* mean,
                              const T* rstd, const T* dy, T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode, T* dbeta,
                              Mode dbeta_mode);
  // y = x / √(mean(x²) + ε) · γ for rows of [rows, cols]; factor[r] is 1 / √(mean(x²) + ε). In backward dx and dgamma
  // may be null. They may be one array: dx is finished first.
  void (*rms_norm)(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, const T* gamma, T* y, T* factor);
  void (*rms_norm_backward)(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* factor,
                            const T* dy, T* dx, Mode dx_mode, T* dgamma, Mode dgamma_mode);
  // y = x / max(‖x‖, ε); inverse[r] is the factor used, negative where ε was.
  void (*l2_normalize)(std::int64_t rows, std::int64_t cols, double epsilon, const T* x, T* y, T* inverse);
  void (*l2_normalize_backward)(std::int64_t rows, std::int64_t cols, const T* y, const T* inverse, const T* dy, T* dx,
                                Mode);
};

/// Over bf16 and f16. Sums are taken in f32, and so is everything else before it is rounded.
template <class Low>
requires kLowPrecision<Low>
struct NormalizeKernels<Low> {
  // Of f32 rows [rows, cols].
  void (*layer_norm)(std::int64_t rows, std::int64_t cols, double epsilon, const float* x, const float* gamma,
                     const float* beta, Low* y, float* mean, float* rstd);
};

}  // namespace tapecache::kernels
