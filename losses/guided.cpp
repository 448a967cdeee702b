#include "tapecache/losses/losses.h"

#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/losses/checks.h"
#include "tapecache/losses/contrastive_shared.h"
#include "tapecache/losses/shared.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/pair_masks.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses {

namespace {

constexpr const char* kLoss = "gist_loss";

/// f64 [rows of a, rows of b]
Tensor cosines(const Tensor& a, const Tensor& b) {
  const NoRecording constants;
  return ops::matmul(ops::l2_normalize(Variable(a)), ops::l2_normalize(Variable(b)), {.transpose_b = true})
      .value()
      .to(DType::kFloat64);
}
}  // namespace

Variable gist_loss(const Variable& queries, const Variable& targets, const Tensor& guide_queries,
                   const Tensor& guide_targets, const GistOptions& options) {
  if (options.communicator) {
    return detail::take_shared(*options.communicator, [&] {
      return detail::gist_loss_shared(queries, targets, guide_queries, guide_targets, options);
    });
  }
  detail::require_rows(kLoss, queries, targets, "queries", "targets");
  const std::int64_t step = detail::require_multiple(kLoss, "targets", targets.size(0), queries.size(0));
  const std::int64_t m = queries.size(0);
  ops::check_equal_targets(kLoss, options.equal_targets, m, targets.size(0));
  detail::require_finite(kLoss, "margin", options.margin, DType::kFloat64);
  detail::require_guide(kLoss, guide_queries, guide_targets, m, targets.size(0));
  const Variable scale = options.scale.factor(kLoss, queries);
  const Device device = queries.device();
  const Tensor guide_q = guide_queries.to(device), guide_t = guide_targets.to(device),
               positives = detail::arange(step, m);
  const Tensor guide_p = step == 1 ? guide_t : ops::gather_rows(Variable(guide_t), positives).value();
  const Tensor query_target = cosines(guide_q, guide_t);
  const Variable q = ops::l2_normalize(queries), t = ops::l2_normalize(targets);
  const Variable p = step == 1 ? t : ops::gather_rows(t, positives);
  const Variable excluded =
      detail::excluded_pairs(kLoss, options.equal_targets, queries, targets, ops::RowsOf::kTargets);
  const Variable of_positives = excluded.defined() && step > 1
                                    ? ops::reshape(ops::slice(ops::reshape(excluded, {m, m, step}), 2, 0, 1), {m, m})
                                    : excluded;
  const auto masked = [&](const Variable& a, const Variable& b, const Tensor& guide, std::int64_t kept, bool self) {
    const kernels::FalseNegatives rule{m,    guide.size(1),  targets.size(0) + step, kept,
                                       self, options.margin, options.relative};
    const Variable logits =
        ops::add(detail::scaled_logits(a, b, scale),
                 ops::false_negatives(rule, guide, query_target, detail::kExcluded, queries.dtype()));
    return detail::without(logits, self ? of_positives : excluded);
  };
  const std::vector<Variable> candidates{masked(q, t, query_target, step, false),
                                         masked(q, q, cosines(guide_q, guide_q), 0, true),
                                         masked(p, p, cosines(guide_p, guide_p), 0, true)};
  return ops::cross_entropy(ops::concat(candidates, 1), positives);
}

}  // namespace tapecache::losses
