#include "tapecache/ops/normalize.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

namespace {

using kernels::SoftmaxKernels;

struct Rows {
  std::int64_t rows, cols;
};

Rows checked_rows(const char* op, const Variable& x) {
  detail::require_floating(op, "x", x, 1);
  if (x.size(-1) == 0) throw ShapeError(fmt::format("{}: the last axis of {} is empty", op, to_string(x.shape())));
  return {detail::rows_of(x.shape()), x.size(-1)};
}

kernels::Broadcast mask_layout(const char* op, const Shape& x, Device device, const Tensor& mask) {
  if (!mask.defined() || mask.dtype() != DType::kBool) {
    throw DTypeError(fmt::format("{}: mask is {}, expected bool", op, describe(mask)));
  }
  if (mask.rank() > x.rank() || Shape::broadcast(op, x, mask.shape()) != x) {
    throw ShapeError(fmt::format("{}: mask has shape {}, expected one that broadcasts to {}", op,
                                 to_string(mask.shape()), to_string(x)));
  }
  if (mask.device() != device) {
    throw DeviceError(fmt::format("{}: mask is on {}, expected {}", op, to_string(mask.device()), to_string(device)));
  }
  kernels::Broadcast layout;
  layout.rank = x.rank();
  std::int64_t stride = 1;
  for (int i = 1; i <= x.rank(); ++i) {
    const auto at = static_cast<std::size_t>(x.rank() - i);
    layout.sizes[at] = x[-i];
    if (i > mask.rank()) continue;
    layout.b[at] = mask.size(-i) == 1 ? 0 : stride;
    stride *= mask.size(-i);
  }
  return layout;
}

Variable softmax_over(const char* op, const Variable& x, const Tensor& mask) {
  const OpScope scope(op);
  const auto [rows, cols] = checked_rows(op, x);
  const kernels::Broadcast layout =
      mask.defined() ? mask_layout(op, x.shape(), x.device(), mask) : kernels::Broadcast{};
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_floating(op, x.dtype(), [&, rows = rows, cols = cols]<class T>() {
    detail::call(op, x.device(), &SoftmaxKernels<T>::softmax, rows, cols, x, mask, layout, y);
  });
  return record(op, y, {x}, {y}, [op, rows = rows, cols = cols](Backward& ctx) {
    // dx = y (dy - Σ dy y); masked entries have y = 0
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(op, dy.dtype(), [&]<class T>() {
      detail::call(op, dy.device(), &SoftmaxKernels<T>::softmax_backward, rows, cols, ctx.saved(0), dy, dx, dx);
    });
  });
}

}  // namespace

Variable softmax(const Variable& x) { return softmax_over("softmax", x, {}); }

Variable masked_softmax(const Variable& x, const Tensor& mask) {
  if (!mask.defined()) throw ValueError("masked_softmax: mask is undefined");
  return softmax_over("masked_softmax", x, mask);
}

Variable log_softmax(const Variable& x) {
  const OpScope scope("log_softmax");
  const auto [rows, cols] = checked_rows("log_softmax", x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_floating("log_softmax", x.dtype(), [&, rows = rows, cols = cols]<class T>() {
    detail::call("log_softmax", x.device(), &SoftmaxKernels<T>::log_softmax, rows, cols, x, y);
  });
  return record("log_softmax", y, {x}, {y}, [rows = rows, cols = cols](Backward& ctx) {
    // dx = dy - exp(y) Σ dy
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating("log_softmax", dy.dtype(), [&]<class T>() {
      detail::call("log_softmax", dy.device(), &SoftmaxKernels<T>::log_softmax_backward, rows, cols, ctx.saved(0), dy,
                   dx, dx);
    });
  });
}

}  // namespace tapecache::ops
