#include "tapecache/ops/equal_targets.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::PairMaskKernels;

namespace {

Tensor as_ids(const Tensor& ids, Device device) { return ids.defined() ? ids.to(device).to(DType::kInt64) : Tensor(); }

}  // namespace

kernels::EqualPairs PairIds::pairs(std::int64_t step) const {
  const auto data = [](const Tensor& ids) { return ids.defined() ? ids.data<std::int64_t>() : nullptr; };
  return {data(queries), data(targets), step};
}

void check_equal_targets(const char* op, const EqualTargets& equal, std::int64_t queries, std::int64_t targets) {
  if (equal.query_ids.defined()) detail::require_ids(op, "query_ids", equal.query_ids, queries);
  if (equal.target_ids.defined()) detail::require_ids(op, "target_ids", equal.target_ids, targets);
  const Tensor& given = equal.target_ids.defined() ? equal.target_ids : equal.query_ids;
  if (equal.equal_rows && given.defined()) {
    throw ValueError(fmt::format("{}: equal_rows beside {} that are {}, expected one of the two", op,
                                 equal.target_ids.defined() ? "target_ids" : "query_ids", describe(given)));
  }
}

PairIds pair_ids(const char* op, const EqualTargets& equal, const Tensor& queries, const Tensor& targets, RowsOf rows,
                 const Tensor& target_mask) {
  check_equal_targets(op, equal, queries.size(0), targets.size(0));
  if (equal.equal_rows) {
    return {rows == RowsOf::kBoth ? equal_row_ids(queries) : Tensor(), equal_row_ids(targets, target_mask)};
  }
  return {as_ids(equal.query_ids, queries.device()), as_ids(equal.target_ids, queries.device())};
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
