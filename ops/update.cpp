#include "tapecache/ops/update.h"

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

namespace {

using kernels::KernelTable;

void require_same(const char* op, const char* argument, const Tensor& found, const Tensor& value) {
  detail::require_alike(op, value, argument, found);
  detail::require_shape(op, argument, found.shape(), value.shape());
}

}  // namespace

void adamw_update(const kernels::AdamW& step, const Tensor& gradient, Tensor& value, Tensor& m, Tensor& v) {
  constexpr const char* kOp = "adamw_update";
  detail::require_floating(kOp, "value", value);
  require_same(kOp, "gradient", gradient, value);
  require_same(kOp, "m", m, value);
  require_same(kOp, "v", v, value);
  dispatch_floating(kOp, value.dtype(), [&]<class T>() {
    kernels::find(&KernelTable<T>::adamw, kOp, value.device())(step, value.numel(), gradient.data<T>(),
                                                               value.mutable_data<T>(), m.mutable_data<T>(),
                                                               v.mutable_data<T>());
  });
}

void sgd_update(const kernels::Sgd& step, const Tensor& gradient, Tensor& value, Tensor& velocity) {
  constexpr const char* kOp = "sgd_update";
  detail::require_floating(kOp, "value", value);
  require_same(kOp, "gradient", gradient, value);
  require_same(kOp, "velocity", velocity, value);
  dispatch_floating(kOp, value.dtype(), [&]<class T>() {
    kernels::find(&KernelTable<T>::sgd, kOp, value.device())(step, value.numel(), gradient.data<T>(),
                                                             value.mutable_data<T>(), velocity.mutable_data<T>());
  });
}

void scale_in_place(Tensor& tensor, double factor) {
  constexpr const char* kOp = "scale_in_place";
  detail::require_floating(kOp, "tensor", tensor);
  dispatch_floating(kOp, tensor.dtype(), [&]<class T>() {
    T* p = tensor.mutable_data<T>();
    kernels::find(&KernelTable<T>::unary, kOp, tensor.device())(kernels::UnaryOp::kScale, factor, 0, tensor.numel(), p,
                                                                p);
  });
}

double squared_norm(std::span<const Tensor> tensors) {
  constexpr const char* kOp = "squared_norm";
  double total = 0;
  for (const Tensor& t : tensors) {
    detail::require_floating(kOp, "tensor", t);
    dispatch_floating(kOp, t.dtype(), [&]<class T>() {
      total += kernels::find(&KernelTable<T>::squared_norm, kOp, t.device())(t.numel(), t.data<T>());
    });
  }
  return total;
}

}  // namespace tapecache::ops
