#pragma once

#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels.h"

/// The step from tensors to the product kernels, which `linear` and `matmul` share.
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

}  // namespace tapecache::ops::detail
