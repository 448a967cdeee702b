#include "tapecache/ops/reduce.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::CrossEntropyKernels;
using kernels::ReduceKernels;

Variable cross_entropy(const Variable& logits, const Tensor& targets, Reduction reduction) {
  constexpr const char* kOp = "cross_entropy";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "logits", logits, 2);
  if (logits.rank() != 2 || logits.size(1) == 0) {
    throw ShapeError(fmt::format("{}: logits have shape {}, expected [rows, classes]", kOp, to_string(logits.shape())));
  }
  const std::int64_t rows = logits.size(0), classes = logits.size(1);
  if (reduction == Reduction::kMean && rows == 0) {
    throw ShapeError(fmt::format("{}: the mean over no rows; logits have shape {}", kOp, to_string(logits.shape())));
  }
  const Tensor index = detail::checked_indices(kOp, "targets", targets, classes, logits.device());
  detail::require_shape(kOp, "targets", targets.shape(), {rows});

  Tensor losses = Tensor::empty({rows}, logits.dtype(), logits.device());
  Tensor logsumexp = Tensor::empty({rows, 2}, logits.dtype(), logits.device());
  Tensor result = losses;
  dispatch_floating(kOp, logits.dtype(), [&]<class T>() {
    detail::call(kOp, logits.device(), &CrossEntropyKernels<T>::cross_entropy, rows, classes, logits, index, losses,
                 logsumexp);
    if (reduction == Reduction::kNone) return;
    result = Tensor::empty({}, logits.dtype(), logits.device());
    detail::call(kOp, logits.device(), &ReduceKernels<T>::reduce,
                 reduction == Reduction::kMean ? kernels::ReduceOp::kMean : kernels::ReduceOp::kSum, 1, rows, 1, losses,
                 result, kernels::Mode::kWrite);
  });
  return record(kOp, std::move(result), {logits}, {logits.value(), index, logsumexp}, [=](Backward& ctx) {
    // dlogits = (softmax(logits) - onehot(target)) dloss
    const Tensor& dloss = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    const double weight = reduction == Reduction::kMean ? 1.0 / static_cast<double>(rows) : 1.0;
    dispatch_floating(kOp, dloss.dtype(), [&]<class T>() {
      detail::call(kOp, dloss.device(), &CrossEntropyKernels<T>::cross_entropy_backward, rows, classes, ctx.saved(0),
                   ctx.saved(1), ctx.saved(2), dloss, reduction == Reduction::kNone ? 1 : 0, weight, dx, dx);
    });
  });
}

}  // namespace tapecache::ops
