#include "tapecache/ops/reduce.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"

namespace tapecache::ops {

namespace {

using kernels::ReduceKernels;
using kernels::ReduceOp;

Variable reduce(const char* op, ReduceOp kind, const Variable& x, int axis_or_negative) {
  const OpScope scope(op);
  detail::require_floating(op, "x", x, 1);
  const int axis = detail::checked_axis(op, x.shape(), axis_or_negative);
  if (kind != ReduceOp::kSum && kind != ReduceOp::kNorm && x.size(axis) == 0) {
    throw ShapeError(fmt::format("{}: axis {} of {} is empty", op, axis, to_string(x.shape())));
  }
  const std::int64_t outer = x.shape().product(0, axis), length = x.size(axis),
                     inner = x.shape().product(axis + 1, x.rank());
  Tensor y = Tensor::empty(x.shape().without(axis), x.dtype(), x.device());
  dispatch_floating(op, x.dtype(), [&]<class T>() {
    detail::call(op, x.device(), &ReduceKernels<T>::reduce, kind, outer, length, inner, x, y, kernels::Mode::kWrite);
  });
  const bool needs_values = kind != ReduceOp::kSum && kind != ReduceOp::kMean;
  std::vector<Tensor> saved;
  if (needs_values) saved = {x.value(), y};
  return record(op, std::move(y), {x}, std::move(saved), [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(op, dy.dtype(), [&]<class T>() {
      detail::call(op, dy.device(), &ReduceKernels<T>::reduce_backward, kind, outer, length, inner,
                   needs_values ? ctx.saved(0).data<T>() : nullptr, needs_values ? ctx.saved(1).data<T>() : nullptr, dy,
                   dx, dx);
    });
  });
}

}  // namespace

Variable sum(const Variable& x, int axis) { return reduce("sum", ReduceOp::kSum, x, axis); }
Variable mean(const Variable& x, int axis) { return reduce("mean", ReduceOp::kMean, x, axis); }
Variable max(const Variable& x, int axis) { return reduce("max", ReduceOp::kMax, x, axis); }
Variable logsumexp(const Variable& x, int axis) { return reduce("logsumexp", ReduceOp::kLogSumExp, x, axis); }
Variable norm(const Variable& x, int axis) { return reduce("norm", ReduceOp::kNorm, x, axis); }

Variable distance(const Variable& a, const Variable& b, int axis) {
  const OpScope scope("distance");
  detail::require_floating("distance", "a", a);
  detail::require_alike("distance", "a", a, "b", b);
  Shape::broadcast("distance", a.shape(), b.shape());
  return norm(subtract(a, b), axis);
}

Variable sum(const Variable& x) {
  detail::require_floating("sum", "x", x);
  return sum(reshape(x, {x.numel()}), 0);
}

Variable mean(const Variable& x) {
  detail::require_floating("mean", "x", x);
  if (x.numel() == 0) throw ShapeError(fmt::format("mean: x has shape {} and is empty", to_string(x.shape())));
  return mean(reshape(x, {x.numel()}), 0);
}

}  // namespace tapecache::ops
