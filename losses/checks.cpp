#include "tapecache/losses/checks.h"

#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/pair_masks.h"

namespace tapecache::losses::detail {

namespace {

void require_one_width(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b) {
  ops::detail::require_alike(loss, name_a, a, name_b, b);
  if (a.size(1) == b.size(1)) return;
  throw ShapeError(fmt::format("{}: {} are {} and {} {}, expected one width", loss, name_a, describe(a.value()), name_b,
                               describe(b.value())));
}

}  // namespace

void require_rows(const char* loss, const char* argument, const Variable& x) {
  ops::detail::require_floating(loss, argument, x);
  if (x.rank() == 2 && x.numel() > 0) return;
  throw ShapeError(
      fmt::format("{}: {} are {}, expected [rows, width], and none of the two 0", loss, argument, describe(x.value())));
}

void require_rows(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b) {
  require_rows(loss, name_a, a);
  require_rows(loss, name_b, b);
  require_one_width(loss, a, b, name_a, name_b);
}

void require_rows_or_none(const char* loss, const char* argument, const Variable& x) {
  ops::detail::require_floating(loss, argument, x);
  if (x.rank() == 2 && x.size(1) > 0) return;
  throw ShapeError(fmt::format("{}: {} are {}, expected [rows, width]", loss, argument, describe(x.value())));
}

void require_rows_or_none(const char* loss, const Variable& a, const Variable& b, const char* name_a,
                          const char* name_b) {
  require_rows_or_none(loss, name_a, a);
  require_rows_or_none(loss, name_b, b);
  require_one_width(loss, a, b, name_a, name_b);
}

void require_pairs(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b) {
  require_rows(loss, a, b, name_a, name_b);
  if (a.size(0) != b.size(0)) {
    throw ShapeError(
        fmt::format("{}: {} {} and {} {}, expected as many of each", loss, a.size(0), name_a, b.size(0), name_b));
  }
}

std::int64_t require_multiple(const char* loss, const char* name, std::int64_t targets, std::int64_t queries) {
  if (targets % queries != 0) {
    throw ShapeError(
        fmt::format("{}: {} {} for {} queries, expected a multiple: one positive and h hard negatives each", loss,
                    targets, name, queries));
  }
  return targets / queries;
}

void require_between(const char* loss, const char* option, double value, double low, double high) {
  if (!(value >= low && value < high)) {
    throw ValueError(fmt::format("{}: {} is {}, expected {} <= {} < {}", loss, option, value, low, option, high));
  }
}

void require_finite(const char* loss, const std::string& option, double value, DType dtype) {
  const double most = dtype == DType::kFloat64 ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  if (std::abs(value) <= most) return;
  throw ValueError(fmt::format("{}: {} is {}, expected a finite number in {}", loss, option, value, name(dtype)));
}

void require_weighting(const char* loss, double label_smoothing, double hardness, const char* argument,
                       const Variable& x) {
  ops::detail::require_floating(loss, argument, x);
  require_between(loss, "label_smoothing", label_smoothing, 0, 1);
  require_between(loss, "hardness", hardness, 0, std::numeric_limits<double>::infinity());
  require_finite(loss, "hardness", hardness, x.dtype());
}

void require_candidates(const char* loss, SharedCandidates candidates) {
  if (candidates >= SharedCandidates::kAutomatic && candidates <= SharedCandidates::kRing) return;
  throw ValueError(
      fmt::format("{}: candidates is {}, expected kAutomatic, kGathered or kRing", loss, static_cast<int>(candidates)));
}

void require_guide(const char* loss, const Tensor& guide_queries, const Tensor& guide_targets, std::int64_t queries,
                   std::int64_t targets) {
  const auto check = [&](const char* argument, const Tensor& guide, std::int64_t rows) {
    require_rows_or_none(loss, argument, Variable(guide));
    if (guide.size(0) == rows) return;
    throw ShapeError(fmt::format("{}: {} are {}, expected [{}, width]", loss, argument, describe(guide), rows));
  };
  check("guide_queries", guide_queries, queries);
  check("guide_targets", guide_targets, targets);
  if (guide_queries.dtype() != guide_targets.dtype()) {
    throw DTypeError(fmt::format("{}: guide_queries are {} and guide_targets {}, expected one type", loss,
                                 name(guide_queries.dtype()), name(guide_targets.dtype())));
  }
  if (guide_queries.size(1) != guide_targets.size(1)) {
    throw ShapeError(fmt::format("{}: guide_queries are {} and guide_targets {}, expected one width", loss,
                                 describe(guide_queries), describe(guide_targets)));
  }
}

void require_tiles(const char* loss, const std::optional<ops::TileOptions>& tiles) {
  if (!tiles) return;
  for (const auto& [side, size] : {std::pair("rows", tiles->rows), std::pair("columns", tiles->columns)}) {
    if (size && *size < 1) {
      throw ValueError(fmt::format("{}: tiles of {} {}, expected at least 1", loss, *size, side));
    }
  }
}

void require_none_in_tiles(const char* loss, const char* option, double value) {
  if (value != 0) {
    throw ValueError(
        fmt::format("{}: {} is {} beside tiles, expected 0: it needs whole rows of logits", loss, option, value));
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

Variable excluded_pairs(const char* loss, const ops::EqualTargets& equal, const Variable& queries,
                        const Variable& targets, ops::RowsOf rows, const Tensor& target_mask) {
  if (!equal.some()) return {};
  const ops::PairIds ids = ops::pair_ids(loss, equal, queries.value(), targets.value(), rows, target_mask);
  return ops::excluded_pairs(ids, queries.size(0), targets.size(0), queries.dtype());
}

Variable without(const Variable& logits, const Variable& excluded) {
  return excluded.defined() ? ops::add(logits, ops::scale(excluded, kExcluded)) : logits;
}

}  // namespace tapecache::losses::detail
