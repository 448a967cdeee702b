#include "tapecache/losses/checks.h"

#include <fmt/format.h>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/matmul.h"
#include "tapecache/ops/pair_masks.h"

namespace tapecache::losses::detail {

void require_rows(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b) {
  const bool fits = a.defined() && b.defined() && a.rank() == 2 && b.rank() == 2 && a.size(1) == b.size(1) &&
                    a.size(0) > 0 && b.size(0) > 0;
  if (!fits) {
    throw ShapeError(fmt::format("{}: {} are {} and {} {}, expected [rows, width] of one width, and at least one row", loss,
                                 name_a, describe(a.value()), name_b, describe(b.value())));
  }
}

void require_pairs(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b) {
  require_rows(loss, a, b, name_a, name_b);
  if (a.size(0) != b.size(0)) {
    throw ShapeError(fmt::format("{}: {} {} and {} {}, expected as many of each", loss, a.size(0), name_a, b.size(0),
                                 name_b));
  }
}

std::int64_t require_multiple(const char* loss, std::int64_t targets, std::int64_t queries) {
  if (targets % queries != 0) {
    throw ShapeError(fmt::format("{}: {} targets for {} queries, expected a multiple: one positive and h hard "
                                 "negatives each", loss, targets, queries));
  }
  return targets / queries;
}

void require_scalar(const char* loss, const char* argument, const Variable& x) {
  if (!x.defined() || x.numel() != 1 || x.rank() > 1) {
    throw ShapeError(fmt::format("{}: {} is {}, expected a scalar", loss, argument, describe(x.value())));
  }
}

void require_between(const char* loss, const char* option, double value, double low, double high) {
  if (!(value >= low && value < high)) {
    throw ValueError(fmt::format("{}: {} is {}, expected {} <= {} < {}", loss, option, value, low, option, high));
  }
}

void require_none_in_tiles(const char* loss, const char* option, double value) {
  if (value != 0) {
    throw ValueError(fmt::format("{}: {} is {} beside tiles, expected 0: it needs whole rows of logits", loss, option,
                                 value));
  }
}

Variable constant_like(const Variable& like, double value) {
  return Tensor::full({}, value, like.dtype(), like.device());
}

Tensor arange(std::int64_t step, std::int64_t count) {
  Tensor index = Tensor::empty({count}, DType::kInt64);
  for (std::int64_t i = 0; i < count; ++i) index.mutable_data<std::int64_t>()[i] = i * step;
  return index;
}

Variable scaled_logits(const Variable& a, const Variable& b, const Variable& scale) {
  return ops::matmul(ops::multiply(a, scale), b, {.transpose_b = true});
}

Variable diagonal(const Variable& like, std::int64_t rows, std::int64_t cols, std::int64_t step, double value) {
  return ops::diagonal(rows, cols, step, value, like.dtype(), like.device());
}

Variable excluded_pairs(const char* loss, const ops::EqualTargets& equal, const Variable& queries, const Variable& targets,
                        ops::RowsOf rows, const Tensor& target_mask) {
  if (!equal.some()) return {};
  const ops::PairIds ids = ops::pair_ids(loss, equal, queries.value(), targets.value(), rows, target_mask);
  return ops::excluded_pairs(ids, queries.size(0), targets.size(0), queries.dtype());
}

Variable without(const Variable& logits, const Variable& excluded) {
  return excluded.defined() ? ops::add(logits, ops::scale(excluded, kExcluded)) : logits;
}

}  // namespace tapecache::losses::detail
