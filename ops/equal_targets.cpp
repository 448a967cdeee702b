#include "tapecache/ops/equal_targets.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::PairMaskKernels;

namespace {

Tensor checked_ids(const char* op, const char* argument, const Tensor& ids, std::int64_t count, Device device) {
  if (!ids.defined()) return {};
  const Shape expected{count};
  if ((ids.dtype() != DType::kInt32 && ids.dtype() != DType::kInt64) || ids.shape() != expected) {
    throw ShapeError(fmt::format("{}: {} are {}, expected int32 or int64 {}", op, argument, describe(ids), to_string(expected)));
  }
  return ids.to(device).to(DType::kInt64);
}

}  // namespace

kernels::EqualPairs PairIds::pairs(std::int64_t step) const {
  const auto data = [](const Tensor& ids) { return ids.defined() ? ids.data<std::int64_t>() : nullptr; };
  return {data(queries), data(targets), step};
}

PairIds pair_ids(const char* op, const EqualTargets& equal, const Tensor& queries, const Tensor& targets, RowsOf rows,
                 const Tensor& target_mask) {
  if (equal.equal_rows) {
    const Tensor& given = equal.target_ids.defined() ? equal.target_ids : equal.query_ids;
    if (given.defined()) {
      throw ValueError(fmt::format("{}: equal_rows beside {} that are {}, expected one of the two", op,
                                   equal.target_ids.defined() ? "target_ids" : "query_ids", describe(given)));
    }
    return {rows == RowsOf::kBoth ? equal_row_ids(queries) : Tensor(), equal_row_ids(targets, target_mask)};
  }
  return {checked_ids(op, "query_ids", equal.query_ids, queries.size(0), queries.device()),
          checked_ids(op, "target_ids", equal.target_ids, targets.size(0), queries.device())};
}

Tensor equal_row_ids(const Tensor& x, const Tensor& mask) {
  constexpr const char* kOp = "equal_row_ids";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "x", Variable(x), 2);
  const std::int64_t rows = x.size(0), width = x.size(-1), tokens = x.shape().product(1, x.rank() - 1);
  if (mask.defined()) detail::require_mask(kOp, "mask", mask, {rows, tokens}, x.device());
  Tensor ids = Tensor::empty({rows}, DType::kInt64, x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    detail::call(kOp, x.device(), &PairMaskKernels<T>::equal_rows, rows, tokens, width, x, mask, ids);
  });
  return ids;
}

}  // namespace tapecache::ops
