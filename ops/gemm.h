#pragma once

#include "tapecache/core/tensor.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/kernels.h"

/// The steps from tensors to kernels that ops with products share.
namespace tapecache::ops::detail {

template <class T>
const T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

/// c = op(a) op(b) + bias + residual, or += without a residual. Bias and residual may be undefined; there is no residual
/// where c is of 16 bits, as a and b then are.
inline void gemm(const char* op, const kernels::Gemm& shape, const Tensor& a, const Tensor& b, const Tensor& bias,
                 const Tensor& residual, Tensor& c, kernels::Mode mode) {
  dispatch_any_floating(op, a.dtype(), [&]<class In>() {
    using Table = kernels::KernelTable<In>;
    if constexpr (kLowPrecision<In>) {
      const float* added = data_or_null<float>(bias);
      if (c.dtype() == a.dtype()) {
        kernels::find(&Table::gemm_rounded, op, a.device())(shape, a.data<In>(), b.data<In>(), added, c.mutable_data<In>(),
                                                            mode);
      } else {
        kernels::find(&Table::gemm, op, a.device())(shape, a.data<In>(), b.data<In>(), added, data_or_null<float>(residual),
                                                    c.mutable_data<float>(), mode);
      }
    } else {
      kernels::find(&Table::gemm, op, a.device())(shape, a.data<In>(), b.data<In>(), data_or_null<In>(bias),
                                                  data_or_null<In>(residual), c.mutable_data<In>(), mode);
    }
  });
}

/// y = Σ over all rows of x, in f32 where x is of 16 bits.
inline void sum_rows(const char* op, const Tensor& x, Tensor& y, kernels::Mode mode) {
  const std::int64_t rows = rows_of(x.shape()), cols = x.size(-1);
  dispatch_any_floating(op, x.dtype(), [&]<class In>() {
    using Table = kernels::KernelTable<In>;
    if constexpr (kLowPrecision<In>) {
      kernels::find(&Table::sum_rows, op, x.device())(rows, cols, x.data<In>(), y.mutable_data<float>(), mode);
    } else {
      kernels::find(&Table::reduce, op, x.device())(kernels::ReduceOp::kSum, 1, rows, cols, x.data<In>(),
                                                    y.mutable_data<In>(), mode);
    }
  });
}

/// The gradient of a bias: the sum of dy over all its rows.
inline void bias_gradient(const char* op, const Tensor& dy, GradientTarget db) { sum_rows(op, dy, db.tensor, mode_of(db)); }

}  // namespace tapecache::ops::detail
