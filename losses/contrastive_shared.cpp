#include "tapecache/losses/contrastive_shared.h"

#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "tapecache/losses/checks.h"
#include "tapecache/losses/shared.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses::detail {

namespace {

using distributed::Communicator;

void refuse(const char* loss, bool asked, const char* option) {
  if (asked) throw ValueError(fmt::format("{}: {} beside a communicator", loss, option));
}

void check_rows(const char* loss, const char* argument, const Variable& x) {
  ops::detail::require_floating(loss, argument, x);
  if (x.rank() == 2 && x.size(1) > 0) return;
  throw ShapeError(fmt::format("{}: {} are {}, expected [rows, width]", loss, argument, describe(x.value())));
}

std::int64_t sum_of(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

/// Own queries against the targets of all ranks.
struct OwnRows {
  std::int64_t queries = 0, own = 0, first = 0;  // of all ranks, of this one, of lower ones
  std::int64_t step = 1;
  Variable scale, logits;
  Variable positives;  // of each own query its logit
};

OwnRows own_rows(const char* loss, Communicator& ranks, const Variable& queries, const Variable& targets,
                 const Variable& scale) {
  OwnRows rows;
  rows.own = queries.size(0);
  const std::vector<std::int64_t> counts = row_counts(ranks, rows.own), of_targets = row_counts(ranks, targets.size(0));
  rows.queries = sum_of(counts);
  rows.step = rows.queries == 0 ? 0 : sum_of(of_targets) / rows.queries;
  for (std::size_t r = 0; r < counts.size(); ++r) {
    if (rows.step > 0 && of_targets[r] == counts[r] * rows.step) continue;
    throw ShapeError(fmt::format("{}: rank {} has {} targets for {} queries, expected {} for each", loss, r,
                                 of_targets[r], counts[r], std::max<std::int64_t>(rows.step, 1)));
  }
  for (int r = 0; r < ranks.rank(); ++r) rows.first += counts[static_cast<std::size_t>(r)];
  rows.scale = common(ranks, scale);
  rows.logits = scaled_logits(queries, gather_rows(ranks, targets, of_targets), rows.scale);
  const std::int64_t width = queries.size(1);
  const Variable first_of_each =
      rows.step == 1
          ? targets
          : ops::reshape(ops::slice(ops::reshape(targets, {rows.own, rows.step, width}), 1, 0, 1), {rows.own, width});
  rows.positives = ops::sum(ops::multiply(ops::multiply(queries, rows.scale), first_of_each), 1);
  return rows;
}

void check_sides(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b) {
  check_rows(loss, name_a, a);
  check_rows(loss, name_b, b);
  ops::detail::require_alike(loss, name_a, a, name_b, b);
  if (a.size(1) == b.size(1)) return;
  throw ShapeError(fmt::format("{}: {} are {} and {} {}, expected one width", loss, name_a, describe(a.value()), name_b,
                               describe(b.value())));
}

void check_pairs(const char* loss, const OwnRows& rows) {
  if (rows.step != 1) throw ShapeError(fmt::format("{}: {} texts for each image, expected one", loss, rows.step));
}

}  // namespace

Variable info_nce_shared(const Variable& queries, const Variable& targets, const InfoNceOptions& options) {
  constexpr const char* kLoss = "info_nce";
  refuse(kLoss, options.label_smoothing != 0, "label_smoothing");
  refuse(kLoss, options.hardness != 0, "hardness");
  refuse(kLoss, options.equal_targets.some(), "equal_targets");
  refuse(kLoss, options.tiles.has_value(), "tiles");
  check_sides(kLoss, queries, targets, "queries", "targets");
  Communicator& ranks = *options.communicator;
  const OwnRows rows = own_rows(kLoss, ranks, queries, targets, options.scale.factor(kLoss, queries));
  const Variable terms = ops::subtract(ops::logsumexp(rows.logits, 1), rows.positives);
  return sum_over_ranks(ranks, ops::scale(ops::sum(terms), 1.0 / static_cast<double>(rows.queries)));
}

Variable clip_loss_shared(const Variable& images, const Variable& texts, const ClipOptions& options) {
  constexpr const char* kLoss = "clip_loss";
  refuse(kLoss, options.label_smoothing != 0, "label_smoothing");
  refuse(kLoss, options.hardness != 0, "hardness");
  refuse(kLoss, options.equal_targets.some(), "equal_targets");
  refuse(kLoss, options.tiles.has_value(), "tiles");
  check_sides(kLoss, images, texts, "images", "texts");
  Communicator& ranks = *options.communicator;
  const OwnRows rows = own_rows(kLoss, ranks, images, texts, options.scale.factor(kLoss, images, kMaxLogitScale));
  check_pairs(kLoss, rows);
  // Columns are joined by their maximum, which cancels, and their sum.
  const Variable own_largest = rows.own > 0
                                   ? ops::max(Variable(rows.logits.value()), 0)
                                   : Variable(Tensor::full({rows.queries}, -std::numeric_limits<double>::infinity(),
                                                           images.dtype(), images.device()));
  const Variable largest(max_over_ranks(ranks, own_largest.value()));
  const Variable sums = sum_over_ranks(ranks, ops::sum(ops::exp(ops::subtract(rows.logits, largest)), 0));
  const Variable of_columns = ops::sum(ops::add(ops::log(sums), largest));  // alike on every rank
  const Variable of_rows = ops::sum(ops::subtract(ops::logsumexp(rows.logits, 1), ops::scale(rows.positives, 2)));
  return ops::scale(ops::add(sum_over_ranks(ranks, of_rows), of_columns), 0.5 / static_cast<double>(rows.queries));
}

Variable siglip_loss_shared(const Variable& images, const Variable& texts, const SiglipOptions& options) {
  constexpr const char* kLoss = "siglip_loss";
  refuse(kLoss, options.equal_targets.some(), "equal_targets");
  refuse(kLoss, options.tiles.has_value(), "tiles");
  check_sides(kLoss, images, texts, "images", "texts");
  Communicator& ranks = *options.communicator;
  const OwnRows rows = own_rows(kLoss, ranks, images, texts, options.scale.factor(kLoss, images));
  check_pairs(kLoss, rows);
  const Variable bias = common(ranks, options.bias.value(kLoss, "bias", images));
  const auto columns = [&](std::int64_t begin, std::int64_t end) {
    return ops::add(ops::slice(rows.logits, 1, begin, end), bias);
  };
  Variable total = constant_like(images, 0);
  const auto add = [&](const Variable& terms) { total = ops::add(total, ops::sum(ops::sum(ops::softplus(terms), 1))); };
  const std::int64_t end = rows.first + rows.own;
  if (rows.own > 0) {
    // Among its own pairs the diagonal's are positives: softplus(-z) in the place of softplus(z).
    const Variable sign = ops::add(constant_like(images, 1), diagonal(images, rows.own, rows.own, 1, -2));
    add(ops::multiply(columns(rows.first, end), sign));
    if (rows.first > 0) add(columns(0, rows.first));
    if (end < rows.queries) add(columns(end, rows.queries));
  } else {
    // Its backward makes the calls of the others'.
    add(columns(0, rows.queries));
  }
  return sum_over_ranks(ranks, ops::scale(total, 1.0 / static_cast<double>(rows.queries)));
}

}  // namespace tapecache::losses::detail
