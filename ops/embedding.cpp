#include "tapecache/ops/layout.h"

#include <array>

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

namespace {

using kernels::GatherKernels;

Variable take_rows(const char* op, const char* argument, const Variable& table, const Tensor& ids,
                   const Shape& result) {
  const std::int64_t rows = table.size(0), width = table.shape().product(1, table.rank());
  const Tensor index = detail::checked_indices(op, argument, ids, rows, table.device());
  const std::int64_t count = index.numel();
  Tensor y = Tensor::empty(result, table.dtype(), table.device());
  dispatch_floating(op, table.dtype(), [&]<class T>() {
    detail::call(op, table.device(), &GatherKernels<T>::gather_rows, count, width, table, index, y);
  });
  return record(op, std::move(y), {table}, {index}, [=](Backward& ctx) {
    // dtable[r] = Σ_{i: id = r} dy[i]
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dtable = ctx.gradient(0);
    dispatch_floating(op, dy.dtype(), [&]<class T>() {
      detail::call(op, dy.device(), &GatherKernels<T>::gather_rows_backward, count, width, rows, ctx.saved(0), dy,
                   dtable, dtable);
    });
  });
}

}  // namespace

Variable embedding(const Variable& table, const Tensor& ids) {
  const OpScope scope("embedding");
  detail::require_floating("embedding", "table", table, 2);
  if (table.rank() != 2) {
    throw ShapeError(fmt::format("embedding: table has shape {}, expected [entries, width]", to_string(table.shape())));
  }
  if (!ids.defined()) throw ValueError("embedding: ids are undefined");
  return take_rows("embedding", "ids", table, ids, ids.shape().inserted(ids.rank(), table.size(1)));
}

Variable gather_rows(const Variable& x, const Tensor& index) {
  const OpScope scope("gather_rows");
  detail::require_floating("gather_rows", "x", x, 1);
  if (!index.defined() || index.rank() != 1) {
    throw ShapeError(fmt::format("gather_rows: index is {}, expected shape [count]", describe(index)));
  }
  return take_rows("gather_rows", "index", x, index, x.shape().with(0, index.numel()));
}

}  // namespace tapecache::ops
