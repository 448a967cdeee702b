#include "tapecache/autograd/tape.h"
#include "tapecache/losses/checks.h"
#include "tapecache/losses/contrastive_shared.h"
#include "tapecache/losses/shared_alike.h"
#include "tapecache/losses/shared_pairs.h"
#include "tapecache/losses/shared_rows.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::losses::detail {

namespace {

/// A rank's anchors are both views of its samples, one after the other; so are their ids.
Tensor of_both_views(const Tensor& x) {
  if (!x.defined()) return {};
  Tensor twice = Tensor::empty(x.shape().with(0, 2 * x.size(0)), x.dtype(), x.device());
  twice.slice(0, x.size(0)).copy_from(x);
  twice.slice(x.size(0), 2 * x.size(0)).copy_from(x);
  return twice;
}

}  // namespace

Variable nt_xent_shared(const Variable& a, const Variable& b, const NtXentOptions& options) {
  const char* const loss = name(SharedLoss::kNtXent);
  require_rows_or_none(loss, a, b, "a", "b");
  ops::check_equal_targets(loss, options.equal_targets, a.size(0), b.size(0));
  require_candidates(loss, options.candidates);
  distributed::Communicator& ranks = *options.communicator;
  const Variable scale = options.scale.factor(loss, a);
  const kernels::TileSizes tile = ops::logit_tile(loss, {}, a.dtype(), a.device());
  const std::vector<InCommon> alike{of_loss(SharedLoss::kNtXent),
                                    of_type("type", a.dtype()),
                                    whole("width", a.size(1)),
                                    of_scalar("scale", scale),
                                    whole("number of rows in a tile", tile.rows),
                                    whole("number of columns in a tile", tile.cols),
                                    of_equal_targets(options.equal_targets),
                                    of_candidates(options.candidates),
                                    of_recording(tapecache::detail::will_record({a, b, scale}))};
  Brought brought = bring(loss, ranks, alike, a.size(0), b.size(0), a.has_history() || b.has_history(), a.device());
  targets_of_each(loss, brought, "a", "b", false);
  for (std::int64_t& count : brought.queries) count *= 2;
  const Shares shares(ranks, brought.queries);
  const std::int64_t n = a.size(0);
  const Variable first = ops::l2_normalize(a), second = ops::l2_normalize(b);
  const Variable anchors = ops::concat({first, second}), others = ops::concat({second, first});
  // An anchor is no candidate of its own, and its other view is its positive.
  Pairing pairing{.outside = {{.count = 2 * n}, {.column = n, .count = n}, {.row = n, .count = n}}};
  if (options.equal_targets.some()) {
    const ops::EqualTargets equal{of_both_views(options.equal_targets.target_ids),
                                  of_both_views(options.equal_targets.query_ids), options.equal_targets.equal_rows};
    const ops::PairKeys keys = shared_pairs(ranks, equal, of_both_views(a.value()), of_both_views(b.value()), shares,
                                            shares, 1, ops::RowsOf::kBoth);
    pairing.left_out = [keys, dtype = a.dtype()](const ops::PairBlock& block) {
      return ops::equal_pairs(keys, block, dtype);
    };
  }
  return shared_rows(ranks, {.loss = loss,
                             .sets = {anchors},
                             .shares = {shares},
                             .pairings = {pairing},
                             .positives = others,
                             .scale = scale,
                             .ring = in_ring(ranks, options.candidates, brought, shares.total, a),
                             .gradient = brought.gradient,
                             .tile = tile});
}

}  // namespace tapecache::losses::detail
