#include "tapecache/losses/losses.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "tapecache/losses/checks.h"
#include "tapecache/losses/contrastive_shared.h"
#include "tapecache/losses/shared.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/pair_masks.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses {

namespace {

/// The diagonal left out: an anchor is no candidate of its own.
Variable without_itself(const Variable& logits) {
  const std::int64_t n = logits.size(0);
  return ops::add(logits, detail::diagonal(logits, n, n, 1, detail::kExcluded));
}

/// Labels of the host's are checked there, which is told at once.
void require_two_equal(const Tensor& labels, const CheckText& none) {
  std::vector<std::int64_t> sorted = labels.to_vector<std::int64_t>();
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end()) throw ValueError(none.text);
}

}  // namespace

Variable nt_xent(const Variable& a, const Variable& b, const NtXentOptions& options) {
  if (options.communicator) {
    return detail::take_shared(*options.communicator, [&] { return detail::nt_xent_shared(a, b, options); });
  }
  detail::require_candidates("nt_xent", options.candidates);
  detail::require_pairs("nt_xent", a, b, "a", "b");
  ops::check_equal_targets("nt_xent", options.equal_targets, a.size(0), b.size(0));
  const Variable scale = options.scale.factor("nt_xent", a);
  const std::int64_t n = a.size(0);
  const std::vector<Variable> views{a, b};
  const Variable anchors = ops::l2_normalize(ops::concat(views));
  Tensor other = Tensor::empty({2 * n}, DType::kInt64);
  for (std::int64_t i = 0; i < 2 * n; ++i) other.mutable_data<std::int64_t>()[i] = (i + n) % (2 * n);
  Variable excluded = detail::excluded_pairs("nt_xent", options.equal_targets, a, b, ops::RowsOf::kBoth);
  if (excluded.defined()) {
    // The same of either view against either.
    const Variable of_view = ops::concat({excluded, excluded}, 1);
    excluded = ops::concat({of_view, of_view});
  }
  const Variable logits = without_itself(detail::scaled_logits(anchors, anchors, scale));
  return ops::cross_entropy(detail::without(logits, excluded), other);
}

Variable sup_con(const Variable& representations, const Tensor& labels, const SupConOptions& options) {
  if (options.communicator) {
    return detail::take_shared(*options.communicator,
                               [&] { return detail::sup_con_shared(representations, labels, options); });
  }
  detail::require_candidates("sup_con", options.candidates);
  detail::require_rows("sup_con", "representations", representations);
  ops::detail::require_ids("sup_con", "labels", labels, representations.size(0));
  const Variable scale = options.scale.factor("sup_con", representations);
  const CheckText none{
      fmt::format("sup_con: no two of {} labels are equal, so that nothing is positive", labels.numel())};
  const Tensor classes = labels.to(DType::kInt64);
  if (classes.device().is_cpu()) require_two_equal(classes, none);
  const Tensor pairs = ops::positive_pairs(classes.to(representations.device()), representations.dtype(), none);
  const Variable anchors = ops::l2_normalize(representations);
  const Variable logits = without_itself(detail::scaled_logits(anchors, anchors, scale));
  // Each pair by itself: a difference of two sums would lose the digits of a small loss.
  return ops::negate(ops::sum(ops::multiply(ops::log_softmax(logits), Variable(pairs))));
}

}  // namespace tapecache::losses
