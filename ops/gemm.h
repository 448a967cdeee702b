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

/// c = op(a) op(b) + bias + residual, or += without a residual. The operands are of type T or bf16; bias and residual may
/// be undefined.
template <class T>
void gemm(const char* op, const kernels::Gemm& shape, const Tensor& a, const Tensor& b, const Tensor& bias,
          const Tensor& residual, Tensor& c, kernels::Mode mode) {
  const T *added = data_or_null<T>(bias), *before = data_or_null<T>(residual);
  if (a.dtype() == DType::kBFloat16) {
    kernels::find(&kernels::KernelTable<T>::gemm_bf16, op, a.device())(
        shape, a.data<BFloat16>(), b.data<BFloat16>(), added, before, c.mutable_data<T>(), mode);
  } else {
    kernels::find(&kernels::KernelTable<T>::gemm, op, a.device())(shape, a.data<T>(), b.data<T>(), added, before,
                                                                  c.mutable_data<T>(), mode);
  }
}

/// The gradient of a bias: the sum of dy over all its rows.
template <class T>
void sum_rows(const char* op, const Tensor& dy, GradientTarget db) {
  kernels::find(&kernels::KernelTable<T>::reduce, op, dy.device())(kernels::ReduceOp::kSum, 1, rows_of(dy.shape()), dy.size(-1),
                                                                   dy.data<T>(), db.tensor.mutable_data<T>(), mode_of(db));
}

}  // namespace tapecache::ops::detail
