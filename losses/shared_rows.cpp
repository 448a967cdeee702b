#include "tapecache/losses/shared_rows.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "tapecache/autograd/tape.h"
#include "tapecache/losses/shared_candidates.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses::detail {

using distributed::Communicator;
using Reduction = distributed::Communicator::Reduction;

namespace {

Variable wide(const Variable& x) { return x.value().to(DType::kFloat64); }

/// Σ over rows in their own type, over these in f64: one f32 sum over all would lose digits.
Variable sum_of(const Variable& x) { return ops::reshape(ops::sum(wide(ops::sum(x, 1))), {1}); }

/// A tile of one pairing.
struct Place {
  const Pairing& pairing;
  std::int64_t row, rows;  // own rows
  CandidateBlock& block;
};

class Work {
 public:
  Work(Communicator& ranks, SharedRows rows);

  Tensor forward();
  void backward(Backward& context);

 private:
  struct Logits {
    Tensor z;           // Weighting::excluded() at pairs that are no negatives
    Variable left_out;  // 1 at those that a pairing leaves out, or undefined
  };

  const Shares& shares() const { return of_.shares[of_.pairings[0].rows]; }
  Device device() const { return of_.positives.device(); }
  bool sigmoid() const { return of_.kind == RowLoss::kSigmoid; }
  bool both_ways() const { return of_.kind == RowLoss::kBothWays; }
  double weight() const { return (both_ways() ? 0.5 : 1.0) / static_cast<double>(shares().total); }
  const Tensor& scale() const { return of_.scale.value(); }
  /// Own rows [begin, end) of the first pairing, which are those with positives.
  Part rows_between(std::int64_t begin, std::int64_t end) const {
    return {of_.sets[of_.pairings[0].rows].value().slice(begin, end), begin};
  }
  Part rows_at(const Place& at) const {
    return {of_.sets[at.pairing.rows].value().slice(at.row, at.row + at.rows), at.row};
  }
  static Part candidates_at(const Place& at) { return {at.block.rows, at.block.first}; }

  void for_rows(const std::function<void(std::int64_t begin, std::int64_t end)>& visitor) const;
  void for_tiles(std::size_t candidates, CandidateBlock& block, const std::function<void(const Place&)>& visitor) const;
  void fill_outside(const Place& at, Tensor& tile, double value) const;
  Logits logits(const Place& at) const;
  void compare_positives();
  void add(const Place& at, RowTotals& rows, RowTotals& columns);
  Tensor join_columns(RowTotals& columns) const;
  void add_to_loss(const Variable& x) { loss_.accumulate(ops::reshape(x, {1}).value()); }
  void add_losses(const RowTotals& totals, const RowConstants& of, std::int64_t begin, std::int64_t end);
  Tensor gradient(const Place& at) const;
  void add_of_positives(const Variable& of_scores, std::int64_t begin, std::int64_t end, Tensor of_rows,
                        Tensor of_positives) const;

  Communicator& ranks_;
  SharedRows of_;
  std::vector<std::unique_ptr<Candidates>> candidates_;  // of each set that is the candidates of some pairing
  Tensor similarity_, positive_;                         // f64 [rows]: of rows with their positives; the logits
  Tensor of_positive_;                                   // d loss / d logit of each, but for share_
  Tensor loss_;                                          // f64 [1]
  RowConstants rows_, columns_;                          // but for what forward alone needs
  double share_ = 0;                                     // d loss / d loss of a row
};

Work::Work(Communicator& ranks, SharedRows rows) : ranks_(ranks), of_(std::move(rows)) {
  candidates_.resize(of_.sets.size());
  for (const Pairing& p : of_.pairings) {
    if (candidates_[p.candidates]) continue;
    candidates_[p.candidates] = std::make_unique<Candidates>(ranks_, of_.sets[p.candidates].value(),
                                                             of_.shares[p.candidates], of_.ring, of_.tile.cols);
  }
}

void Work::for_rows(const std::function<void(std::int64_t begin, std::int64_t end)>& visitor) const {
  const std::int64_t own = shares().own;
  for (std::int64_t row = 0; row < own; row += of_.tile.rows) visitor(row, std::min(own, row + of_.tile.rows));
}

void Work::for_tiles(std::size_t candidates, CandidateBlock& block,
                     const std::function<void(const Place&)>& visitor) const {
  for (const Pairing& pairing : of_.pairings) {
    if (pairing.candidates != candidates) continue;
    for_rows([&](std::int64_t begin, std::int64_t end) { visitor({pairing, begin, end - begin, block}); });
  }
}

void Work::fill_outside(const Place& at, Tensor& tile, double value) const {
  const std::int64_t first = at.block.first - of_.shares[at.pairing.candidates].first;
  for (const ops::Diagonal& all : at.pairing.outside) {
    ops::fill_diagonal(tile, all.within(at.row, at.rows, first, tile.size(1)), value);
  }
}

Work::Logits Work::logits(const Place& at) const {
  Tensor z = of_.similarity->logits(rows_at(at), candidates_at(at), scale());
  if (sigmoid()) z = (Variable(z) + Variable(of_.bias.value())).value();
  if (!at.pairing.left_out) return {z, {}};
  Tensor left_out =
      at.pairing.left_out({of_.shares[at.pairing.rows].first + at.row, at.rows, at.block.first, z.size(1)});
  fill_outside(at, left_out, 0);
  return {z, left_out};
}

/// Positives are apart from the tiles, since each is at hand where its row is.
void Work::compare_positives() {
  similarity_ = Tensor::empty({shares().own}, DType::kFloat64, device());
  for_rows([&](std::int64_t begin, std::int64_t end) {
    const Tensor positives = of_.positives.value().slice(begin, end);
    similarity_.slice(begin, end).copy_from(of_.similarity->scores_of_positives(rows_between(begin, end), positives));
  });
  Variable logits = Variable(similarity_) * wide(of_.scale);
  if (sigmoid()) logits = logits + wide(of_.bias);
  positive_ = logits.value();
}

void Work::add(const Place& at, RowTotals& rows, RowTotals& columns) {
  const Weighting& how = of_.how;
  auto [z, left_out] = logits(at);
  if (how.needs_counts() && left_out.defined()) {
    RowTotals::add_to(rows.negatives, at.row, -ops::sum(left_out, 1));
    if (both_ways()) RowTotals::add_to(columns.negatives, at.block.first, -ops::sum(left_out, 0));
  }
  if (how.label_smoothing != 0) {
    fill_outside(at, z, 0);
    Variable counted = z;
    if (left_out.defined()) counted = counted * (1.0 - left_out);
    RowTotals::add_to(rows.logits, at.row, ops::sum(counted, 1));
    if (both_ways()) RowTotals::add_to(columns.logits, at.block.first, ops::sum(counted, 0));
  }
  fill_outside(at, z, how.excluded());
  Variable negatives = z;
  if (left_out.defined()) negatives = negatives + ops::scale(left_out, how.excluded());
  if (sigmoid()) {
    add_to_loss(sum_of(ops::softplus(negatives)));
    return;
  }
  rows.add(negatives, 0, at.row);
  if (both_ways()) columns.add(negatives, 1, at.block.first);
}

/// The columns of all ranks, by one maximum and one sum: of a number a column, and of more where options ask for it.
/// Returns the logits of positives, of other ranks' columns where hardness asks for them.
Tensor Work::join_columns(RowTotals& columns) const {
  const double beta = of_.how.hardness;
  const std::int64_t count = columns.largest.size(0);
  Tensor positives = Tensor::zeros({count}, DType::kFloat64, device());
  positives.slice(shares().first, shares().first + shares().own).copy_from(positive_);
  if (beta == 0 && shares().own > 0) columns.add(positive_, shares().first);
  const Variable before = columns.largest.clone();
  all_reduce(ranks_, columns.largest, Reduction::kMax);
  const Variable shift = before - Variable(columns.largest);
  const auto moved = [&](Tensor& sum, double factor) {
    sum = (Variable(sum) * ops::exp(ops::scale(shift, factor))).value();
    return &sum;
  };
  std::vector<Tensor*> summands{moved(columns.exponentials, 1 + beta)};
  if (beta != 0) summands.insert(summands.end(), {moved(columns.hard, beta), &positives});
  if (of_.how.needs_counts() && of_.pairings[0].left_out) summands.push_back(&columns.negatives);
  std::vector<Variable> parts;
  for (const Tensor* part : summands) parts.emplace_back(*part);
  Tensor all = ops::concat(parts).value();
  all_reduce(ranks_, all, Reduction::kSum);
  for (std::size_t i = 0; i < summands.size(); ++i) {
    const std::int64_t begin = static_cast<std::int64_t>(i) * count;
    *summands[i] = all.slice(begin, begin + count);
  }
  if (of_.how.needs_counts())
    columns.negatives = (Variable(columns.negatives) + static_cast<double>(count - 1)).value();
  return positives;
}

/// What `of` says of rows [begin, end) of its own, and of the negatives of all that this rank has seen.
void Work::add_losses(const RowTotals& totals, const RowConstants& of, std::int64_t begin, std::int64_t end) {
  add_to_loss(ops::sum(Variable(of.losses.slice(begin, end))));
  if (of_.how.label_smoothing == 0) return;
  const Variable spread = ops::sum(Variable(of.even) * Variable(totals.logits));
  add_to_loss(ops::scale(spread, -(1 + of_.how.hardness)));
}

Tensor Work::forward() {
  const std::int64_t own = shares().own, candidates = of_.shares[of_.pairings[0].candidates].total;
  loss_ = Tensor::zeros({1}, DType::kFloat64, device());
  compare_positives();
  RowTotals rows(of_.how, own, static_cast<double>(candidates - 1), device());
  RowTotals columns(of_.how, both_ways() ? candidates : 0, 0, device());
  for (std::size_t set = 0; set < candidates_.size(); ++set) {
    if (!candidates_[set]) continue;
    candidates_[set]->visit(
        [&](CandidateBlock& block) { for_tiles(set, block, [&](const Place& at) { add(at, rows, columns); }); });
  }
  if (sigmoid()) {
    add_to_loss(ops::sum(ops::softplus(-Variable(positive_))));
    of_positive_ = (-ops::sigmoid(-Variable(positive_))).value();
  } else {
    rows_ = rows.finish(positive_, false);
    add_losses(rows, rows_, 0, own);
    of_positive_ = rows_.of_positive;
  }
  if (both_ways()) {
    const Tensor positives = join_columns(columns);
    const std::int64_t begin = shares().first, end = begin + own;
    columns_ = columns.finish(positives, of_.how.hardness == 0);
    add_losses(columns, columns_, begin, end);
    of_positive_.accumulate(columns_.of_positive.slice(begin, end));
  }
  for (RowConstants* constants : {&rows_, &columns_}) constants->losses = constants->of_positive = Tensor();
  all_reduce(ranks_, loss_, Reduction::kSum);
  return ops::scale(Variable(loss_), weight()).value().to(of_.positives.dtype()).reshape(Shape());
}

/// d loss / d logits
Tensor Work::gradient(const Place& at) const {
  auto [z, left_out] = logits(at);
  fill_outside(at, z, of_.how.excluded());
  Variable negatives = z;
  if (left_out.defined()) negatives = negatives + ops::scale(left_out, of_.how.excluded());
  if (sigmoid()) return ops::scale(ops::sigmoid(negatives), share_).value();
  Variable gradient = rows_.gradient(of_.how, negatives, 0, at.row, share_);
  if (both_ways()) gradient = gradient + columns_.gradient(of_.how, negatives, 1, at.block.first, share_);
  if (of_.how.label_smoothing == 0) return gradient.value();
  if (left_out.defined()) gradient = gradient * (1.0 - left_out);
  Tensor spread = gradient.value();
  fill_outside(at, spread, 0);
  return spread;
}

/// With G = d loss / d logits and g that of the positives', and where scores are products of rows A with candidates B
/// and positives p: dA = scale (G B + g p), dB = scale Gᵀ A, dp = scale g A, dscale = Σ A (G B + g p), dbias = Σ G + Σ
/// g.
void Work::backward(Backward& context) {
  const NoRecording constants;
  share_ = context.output_gradient().item() * weight();
  std::vector<Tensor> products(of_.sets.size()), of_candidates(of_.sets.size());
  for (const Pairing& p : of_.pairings) {
    const Tensor& rows = of_.sets[p.rows].value();
    if (!products[p.rows].defined()) products[p.rows] = Tensor::zeros(rows.shape(), rows.dtype(), device());
  }
  Variable of_bias(Tensor::zeros({1}, DType::kFloat64, device())), of_scale = of_bias;
  for (std::size_t set = 0; set < candidates_.size(); ++set) {
    if (!candidates_[set]) continue;
    of_candidates[set] = candidates_[set]->visit_backward(of_.gradient, [&](CandidateBlock& block) {
      for_tiles(set, block, [&](const Place& at) {
        const Tensor tile = gradient(at);
        Tensor product = products[at.pairing.rows].slice(at.row, at.row + at.rows);
        of_.similarity->add_gradients(tile, rows_at(at), candidates_at(at), scale(), product, block.gradient);
        if (sigmoid()) of_bias = of_bias + sum_of(tile);
      });
    });
  }
  const Variable of_positives = ops::scale(of_positive_, share_);
  of_bias = of_bias + ops::reshape(ops::sum(of_positives), {1});
  of_scale = of_scale + ops::reshape(ops::sum(of_positives * similarity_), {1});
  for (std::size_t set = 0; set < products.size(); ++set) {
    if (!products[set].defined()) continue;
    for_rows([&](std::int64_t begin, std::int64_t end) {
      of_scale = of_scale + sum_of(of_.sets[set].value().slice(begin, end) * Variable(products[set].slice(begin, end)));
    });
  }
  Tensor numbers = ops::concat({of_scale, of_bias}).value();
  all_reduce(ranks_, numbers, Reduction::kSum);
  candidates_.clear();
  for (std::size_t set = 0; set < products.size(); ++set) {
    if (!context.needs(set)) continue;
    if (products[set].defined()) {
      for_rows([&](std::int64_t begin, std::int64_t end) {
        Tensor part = products[set].slice(begin, end);
        if (set == of_.pairings[0].rows) add_of_positives(of_positives, begin, end, part, {});
        part.copy_from((Variable(part) * Variable(scale())).value());
      });
      context.pass(set, std::exchange(products[set], {}));
    }
    if (of_candidates[set].defined()) context.pass(set, std::exchange(of_candidates[set], {}));
  }
  const std::size_t positives = of_.sets.size();
  if (context.needs(positives)) {
    GradientTarget target = context.gradient(positives);
    if (!target.accumulate) target.tensor.fill(0);
    const Variable of_scores = of_positives * wide(of_.scale);
    for_rows([&](std::int64_t begin, std::int64_t end) {
      add_of_positives(of_scores, begin, end, {}, target.tensor.slice(begin, end));
    });
  }
  for (std::size_t i = 0; i < 2; ++i) {
    if (!context.needs(positives + 1 + i)) continue;
    const auto at = static_cast<std::int64_t>(i);
    context.pass(positives + 1 + i, numbers.slice(at, at + 1).to(of_.positives.dtype()).reshape(Shape()));
  }
}

/// What gradients of own positives' scores are of rows [begin, end) and of their positives.
void Work::add_of_positives(const Variable& of_scores, std::int64_t begin, std::int64_t end, Tensor of_rows,
                            Tensor of_positives) const {
  of_.similarity->add_gradients_of_positives(of_scores.value().slice(begin, end), rows_between(begin, end),
                                             of_.positives.value().slice(begin, end), std::move(of_rows),
                                             std::move(of_positives));
}

}  // namespace

Variable shared_rows(Communicator& ranks, SharedRows rows) {
  std::vector<Variable> inputs = rows.sets;
  if (rows.kind != RowLoss::kSigmoid) rows.bias = constant_like(rows.scale, 0);
  inputs.insert(inputs.end(), {rows.positives, rows.scale, rows.bias});
  const char* const loss = rows.loss;
  std::shared_ptr<Work> work;
  Tensor value;
  {
    const NoRecording constants;
    work = std::make_shared<Work>(ranks, std::move(rows));
    value = work->forward();
  }
  return recorded(loss, ranks, std::move(value), inputs, std::move(work));
}

}  // namespace tapecache::losses::detail
