#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/autograd/tape.h"
#include "tapecache/losses/checks.h"
#include "tapecache/losses/contrastive_shared.h"
#include "tapecache/losses/row_totals.h"
#include "tapecache/losses/shared_alike.h"
#include "tapecache/losses/shared_candidates.h"
#include "tapecache/losses/shared_pairs.h"
#include "tapecache/losses/similarity.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/logit_tile.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses::detail {

namespace {

using distributed::Communicator;

/// How much the losses of own anchors count, f64 [rows]: of A anchors of all ranks with P(i) positives, 1/A and 1/(A
/// P(i)), or 0 and 0 where P(i) is 0.
struct AnchorWeights {
  Tensor of_anchor, of_positive;

  /// Of labels of all ranks, i64 [rows], equal where classes are. Throws ValueError where no two are equal.
  AnchorWeights(const char* loss, const Tensor& labels, const Shares& shares);
};

AnchorWeights::AnchorWeights(const char* loss, const Tensor& labels, const Shares& shares) {
  const std::vector<std::int64_t> classes = labels.to(Device::cpu()).to_vector<std::int64_t>();
  std::map<std::int64_t, std::int64_t> members;
  for (const std::int64_t label : classes) ++members[label];
  std::int64_t anchors = 0;
  for (const auto& [label, count] : members) anchors += count > 1 ? count : 0;
  if (anchors == 0) {
    throw ValueError(fmt::format("{}: no two of {} labels of {} ranks are equal, so that nothing is positive", loss,
                                 classes.size(), shares.counts.size()));
  }
  std::vector<double> anchor, positive;
  for (std::int64_t i = 0; i < shares.own; ++i) {
    const std::int64_t positives = members[classes[static_cast<std::size_t>(shares.first + i)]] - 1;
    const auto counted = static_cast<double>(anchors) * static_cast<double>(positives);
    anchor.push_back(positives > 0 ? 1 / static_cast<double>(anchors) : 0);
    positive.push_back(positives > 0 ? 1 / counted : 0);
  }
  const auto tensor = [&](const std::vector<double>& weights) {
    return Tensor::from(weights, {shares.own}).to(labels.device());
  };
  of_anchor = tensor(anchor), of_positive = tensor(positive);
}

/// Own anchors [rows, width], of length 1, against those of all ranks.
struct Anchors {
  Variable rows, scale;
  Shares shares;
  ops::PairKeys labels;
  bool ring = false, gradient = false;
  kernels::TileSizes tile = {};
};

/// Own rows of the logits, tile by tile.
class Work {
 public:
  Work(const char* loss, Communicator& ranks, Anchors anchors)
      : ranks_(ranks),
        of_(std::move(anchors)),
        candidates_(ranks, of_.rows.value(), of_.shares, of_.ring, of_.tile.cols),
        weights_(loss, of_.labels.targets, of_.shares) {}

  Tensor forward();
  void backward(Backward& context);

 private:
  struct Tile {
    Variable logits;                  // [rows, candidates], excluded where an anchor meets itself
    Variable positives;               // 1 at those, 0 elsewhere
    std::int64_t begin = 0, end = 0;  // own rows

    /// Of own rows' numbers, those of the tile as a column.
    Variable column(const Tensor& of_rows) const {
      return ops::reshape(of_rows.slice(begin, end).to(logits.dtype()), {end - begin, 1});
    }
  };
  Part rows_between(std::int64_t begin, std::int64_t end) const { return {of_.rows.value().slice(begin, end), begin}; }
  void for_tiles(const CandidateBlock& block, const std::function<void(const Tile&)>& visitor) const;

  Communicator& ranks_;
  Anchors of_;
  Candidates candidates_;
  AnchorWeights weights_;
  RowConstants rows_;
  DotProducts products_;
};

void Work::for_tiles(const CandidateBlock& block, const std::function<void(const Tile&)>& visitor) const {
  const std::int64_t own = of_.shares.own, first = of_.shares.first;
  const ops::Diagonal itself{.count = own};
  for (std::int64_t begin = 0; begin < own; begin += of_.tile.rows) {
    const std::int64_t end = std::min(own, begin + of_.tile.rows), count = block.rows.size(0);
    Tensor logits = products_.logits(rows_between(begin, end), {block.rows, block.first}, of_.scale.value());
    Tensor positives = ops::equal_pairs(of_.labels, {first + begin, end - begin, block.first, count}, logits.dtype());
    const ops::Diagonal here = itself.within(begin, end - begin, block.first - first, count);
    ops::fill_diagonal(logits, here, kExcluded);
    ops::fill_diagonal(positives, here, 0);
    visitor({logits, positives, begin, end});
  }
}

Tensor Work::forward() {
  const Device device = of_.rows.device();
  RowTotals totals({}, of_.shares.own, 0, device);
  Tensor of_positives = Tensor::zeros({of_.shares.own}, DType::kFloat64, device);
  candidates_.visit([&](const CandidateBlock& block) {
    for_tiles(block, [&](const Tile& tile) {
      // In f64: what f32 loses of these sums is all that there is of a small loss.
      const Variable logits = tile.logits.value().to(DType::kFloat64);
      const Variable positives = tile.positives.value().to(DType::kFloat64);
      totals.add(logits, 0, tile.begin);
      RowTotals::add_to(of_positives, tile.begin, ops::sum(logits * positives, 1));
    });
  });
  const Variable normalizer = Variable(totals.largest) + ops::log(Variable(totals.exponentials));
  rows_.normalizer = normalizer.value();
  const Variable losses =
      normalizer * Variable(weights_.of_anchor) - Variable(of_positives) * Variable(weights_.of_positive);
  Tensor loss = ops::reshape(ops::sum(losses), {1}).value();
  all_reduce(ranks_, loss, distributed::Communicator::Reduction::kSum);
  return loss.to(of_.rows.dtype()).reshape(Shape());
}

/// With G = d loss / d logits of own anchors A and candidates B, dA = scale G B, dB = scale Gᵀ A, dscale = Σ A G B.
void Work::backward(Backward& context) {
  const NoRecording constants;
  const double of_loss = context.output_gradient().item();
  const Tensor& anchors = of_.rows.value();
  Tensor products = Tensor::zeros(anchors.shape(), anchors.dtype(), anchors.device());
  const Tensor of_candidates = candidates_.visit_backward(of_.gradient, [&](CandidateBlock& block) {
    for_tiles(block, [&](const Tile& tile) {
      const Variable probabilities = rows_.gradient({}, tile.logits, 0, tile.begin, of_loss);
      const Variable of_positives = tile.positives * tile.column(weights_.of_positive);
      const Tensor gradient =
          (probabilities * tile.column(weights_.of_anchor) - ops::scale(of_positives, of_loss)).value();
      Tensor product = products.slice(tile.begin, tile.end);
      products_.add_gradients(gradient, rows_between(tile.begin, tile.end), {block.rows, block.first},
                              of_.scale.value(), product, block.gradient);
    });
  });
  const Variable by_row = ops::sum(Variable(anchors) * Variable(products), 1);
  Tensor of_scale = ops::reshape(ops::sum(Variable(by_row.value().to(DType::kFloat64))), {1}).value();
  all_reduce(ranks_, of_scale, distributed::Communicator::Reduction::kSum);
  if (context.needs(0)) {
    context.pass(0, (Variable(products) * Variable(of_.scale.value())).value());
    if (of_candidates.defined()) context.pass(0, of_candidates);
  }
  if (context.needs(1)) context.pass(1, of_scale.to(anchors.dtype()).reshape(Shape()));
}

}  // namespace

Variable sup_con_shared(const Variable& representations, const Tensor& labels, const SupConOptions& options) {
  const char* const loss = name(SharedLoss::kSupCon);
  require_rows_or_none(loss, "representations", representations);
  ops::detail::require_ids(loss, "labels", labels, representations.size(0));
  require_candidates(loss, options.candidates);
  Communicator& ranks = *options.communicator;
  const Variable scale = options.scale.factor(loss, representations);
  const DType dtype = representations.dtype();
  const kernels::TileSizes tile = ops::logit_tile(loss, {}, dtype, representations.device());
  const std::vector<InCommon> alike{of_loss(SharedLoss::kSupCon),
                                    of_type("type", dtype),
                                    whole("width", representations.size(1)),
                                    of_scalar("scale", scale),
                                    whole("number of rows in a tile", tile.rows),
                                    whole("number of columns in a tile", tile.cols),
                                    of_candidates(options.candidates),
                                    of_recording(tapecache::detail::will_record({representations, scale}))};
  const std::int64_t own = representations.size(0);
  const Brought brought = bring(loss, ranks, alike, own, own, representations.has_history(), representations.device());
  targets_of_each(loss, brought, "representations", "labels", false);
  const Shares shares(ranks, brought.queries);
  const ops::PairKeys keys = shared_pairs(ranks, {.target_ids = labels}, representations.value(),
                                          representations.value(), shares, shares, 1, ops::RowsOf::kTargets);
  const Variable anchors = ops::l2_normalize(representations);
  std::shared_ptr<Work> work;
  Tensor value;
  {
    const NoRecording constants;
    work = std::make_shared<Work>(loss, ranks,
                                  Anchors{.rows = anchors,
                                          .scale = scale,
                                          .shares = shares,
                                          .labels = keys,
                                          .ring = in_ring(ranks, options.candidates, brought, shares.total, anchors),
                                          .gradient = brought.gradient,
                                          .tile = tile});
    value = work->forward();
  }
  return recorded(loss, ranks, std::move(value), {anchors, scale}, std::move(work));
}

}  // namespace tapecache::losses::detail
