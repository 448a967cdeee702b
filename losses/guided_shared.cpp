#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "tapecache/autograd/tape.h"
#include "tapecache/losses/checks.h"
#include "tapecache/losses/contrastive_shared.h"
#include "tapecache/losses/shared_alike.h"
#include "tapecache/losses/shared_pairs.h"
#include "tapecache/losses/shared_rows.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::losses::detail {

namespace {

using distributed::Communicator;

/// What the guide says of a tile. A similarity is compared with another, so that equal rows must have equal ones: all
/// products are of one number of columns, on which bits may depend.
class Guide {
 public:
  /// Normalised, of own queries and of all targets of own.
  Guide(Communicator& ranks, const Tensor& queries, const Tensor& targets, std::int64_t step, const Shares& of_queries,
        const Shares& of_targets, std::int64_t tile, const GistOptions& options)
      : options_(options), columns_(std::min(tile, of_targets.total)), first_(of_queries.first) {
    queries_ = queries;
    all_queries_ = gather_rows(ranks, queries, of_queries);
    all_targets_ = gather_rows(ranks, targets, of_targets);
    positives_ = positives_of(targets, of_queries.own, step).value();
    all_positives_ = positives_of(all_targets_, of_queries.total, step).value();
    find_limits();
  }

  Tensor among_targets(const ops::PairBlock& block, DType dtype) const {
    return nearer(queries_, all_targets_, block, dtype);
  }
  Tensor among_queries(const ops::PairBlock& block, DType dtype) const {
    return nearer(queries_, all_queries_, block, dtype);
  }
  Tensor among_positives(const ops::PairBlock& block, DType dtype) const {
    return nearer(positives_, all_positives_, block, dtype);
  }

 private:
  /// [rows, columns_] of at most so many candidates.
  Tensor similarities(const Tensor& rows, const Tensor& candidates) const {
    if (candidates.size(0) == columns_) return ops::similarities(rows, candidates);
    Tensor wider = Tensor::zeros(candidates.shape().with(0, columns_), candidates.dtype(), candidates.device());
    wider.slice(0, candidates.size(0)).copy_from(candidates);
    return ops::similarities(rows, wider);
  }

  /// Of each own query the similarity of its positive.
  void find_limits() {
    const std::int64_t own = queries_.size(0);
    of_positives_ = Tensor::empty({own}, DType::kFloat64, queries_.device());
    for (std::int64_t row = 0; row < own; row += columns_) {
      const std::int64_t end = std::min(own, row + columns_);
      const Tensor block = similarities(queries_.slice(row, end), positives_.slice(row, end));
      of_positives_.slice(row, end).copy_from(ops::diagonal_of(block).to(DType::kFloat64));
    }
  }

  /// 1 at candidates that are nearer than a row's positive.
  Tensor nearer(const Tensor& rows, const Tensor& candidates, const ops::PairBlock& block, DType dtype) const {
    const std::int64_t row = block.first_query - first_, column = block.first_target;
    const Tensor near =
        similarities(rows.slice(row, row + block.queries), candidates.slice(column, column + block.targets));
    const Tensor of_block = ops::slice(near, 1, 0, block.targets).value().to(DType::kFloat64);
    const kernels::FalseNegatives rule{.rows = block.queries,
                                       .cols = block.targets,
                                       .positive_step = 1,
                                       .margin = options_.margin,
                                       .relative = options_.relative};
    return ops::false_negatives(rule, of_block, of_positives_.slice(row, row + block.queries), 1, dtype);
  }

  GistOptions options_;
  std::int64_t columns_, first_;
  Tensor queries_, positives_, all_queries_, all_targets_, all_positives_;
  Tensor of_positives_;  // f64
};

using LeftOut = std::function<Tensor(const ops::PairBlock&)>;

/// Pairs that the guide leaves out, and those that ids do.
LeftOut left_out(LeftOut by_guide, const ops::PairKeys& keys, DType dtype) {
  if (!keys.some()) return by_guide;
  return [by_guide = std::move(by_guide), keys, dtype](const ops::PairBlock& block) {
    return (Variable(by_guide(block)) + Variable(ops::equal_pairs(keys, block, dtype))).value();
  };
}

}  // namespace

Variable gist_loss_shared(const Variable& queries, const Variable& targets, const Tensor& guide_queries,
                          const Tensor& guide_targets, const GistOptions& options) {
  const char* const loss = name(SharedLoss::kGist);
  require_rows_or_none(loss, queries, targets, "queries", "targets");
  ops::check_equal_targets(loss, options.equal_targets, queries.size(0), targets.size(0));
  require_finite(loss, "margin", options.margin, DType::kFloat64);
  require_guide(loss, guide_queries, guide_targets, queries.size(0), targets.size(0));
  Communicator& ranks = *options.communicator;
  const Device device = queries.device();
  const DType dtype = queries.dtype();
  const Variable scale = options.scale.factor(loss, queries);
  const kernels::TileSizes tile = ops::logit_tile(loss, {}, dtype, device);
  const std::vector<InCommon> alike{of_loss(SharedLoss::kGist),
                                    of_type("type", dtype),
                                    whole("width", queries.size(1)),
                                    of_scalar("scale", scale),
                                    real("margin", options.margin),
                                    named("kind of margin", options.relative, {"absolute", "relative"}),
                                    of_type("type of the guide", guide_queries.dtype()),
                                    whole("width of the guide", guide_queries.size(1)),
                                    of_equal_targets(options.equal_targets),
                                    of_recording(tapecache::detail::will_record({queries, targets, scale}))};
  const Brought brought = bring(loss, ranks, alike, queries.size(0), targets.size(0),
                                queries.has_history() || targets.has_history(), device);
  const std::int64_t step = targets_of_each(loss, brought, "queries", "targets", true), own = queries.size(0);
  const Shares of_queries(ranks, brought.queries), of_targets(ranks, brought.targets);
  const auto normalized = [&](const Tensor& x) {
    const NoRecording constants;
    return ops::l2_normalize(Variable(x.to(device))).value();
  };
  const auto guide = std::make_shared<const Guide>(ranks, normalized(guide_queries), normalized(guide_targets), step,
                                                   of_queries, of_targets, tile.cols, options);
  ops::PairKeys keys;
  if (options.equal_targets.some()) {
    keys = shared_pairs(ranks, options.equal_targets, queries.value(), targets.value(), of_queries, of_targets, step,
                        ops::RowsOf::kTargets);
  }
  const Variable q = ops::l2_normalize(queries), t = ops::l2_normalize(targets);
  const Variable p = positives_of(t, own, step);
  // Against all targets, the other queries and, for the positive, the other positives.
  const std::size_t positives = step == 1 ? 1 : 2;
  std::vector<Pairing> pairings{
      {0,
       1,
       {{.step = step, .count = own}},
       left_out([=](const ops::PairBlock& b) { return guide->among_targets(b, dtype); }, keys, dtype)},
      {0,
       0,
       {{.count = own}},
       left_out([=](const ops::PairBlock& b) { return guide->among_queries(b, dtype); }, among_positives(keys), dtype)},
      {positives,
       positives,
       {{.count = own}},
       left_out([=](const ops::PairBlock& b) { return guide->among_positives(b, dtype); }, among_positives(keys),
                dtype)}};
  std::vector<Variable> sets{q, t};
  std::vector<Shares> shares{of_queries, of_targets};
  if (step > 1) {
    sets.push_back(p);
    shares.push_back(of_queries);
  }
  return shared_rows(ranks, {.loss = loss,
                             .sets = sets,
                             .shares = shares,
                             .pairings = pairings,
                             .positives = p,
                             .scale = scale,
                             .gradient = brought.gradient,
                             .tile = tile});
}

}  // namespace tapecache::losses::detail
