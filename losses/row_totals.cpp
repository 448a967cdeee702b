#include "tapecache/losses/row_totals.h"

#include <limits>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses::detail {

namespace {

/// Below what stands for a pair that is left out.
constexpr double kNothing = 10 * kExcluded;

Variable times(const Variable& x, double factor) { return factor == 1 ? x : ops::scale(x, factor); }

/// A number for each row or column of a tile, as it is broadcast to it.
Variable along(const Variable& x, int axis) { return axis == 0 ? ops::reshape(x, {x.size(0), 1}) : x; }

Variable wide(const Variable& x) { return x.value().to(DType::kFloat64); }

/// exp(x - shift) · factor of a tile, for shifts and factors in f64: what f32 loses of a shift is left to the factor.
/// Of a row without negatives, whose factor is 0, the shift is so large that exp of what f32 loses overflows.
Variable exponentials(const Variable& x, int axis, const Variable& shift, const Variable& factor) {
  constexpr double kMost = 64;
  const Tensor near = shift.value().to(x.dtype());
  const Variable rest = ops::clamp(shift - wide(near), -kMost, kMost);
  return ops::exp(x - along(near, axis)) * along((factor * ops::exp(-rest)).value().to(x.dtype()), axis);
}

}  // namespace

Variable RowConstants::gradient(const Weighting& how, const Variable& tile, int axis, std::int64_t first,
                                double weight) const {
  const double beta = how.hardness;
  const auto own = [&](const Tensor& all) { return Variable(all.slice(first, first + tile.size(axis))); };
  const Variable constant = constant_like(own(normalizer), weight * (1 + beta));
  Variable gradient = exponentials(times(tile, 1 + beta), axis, own(normalizer), constant);
  if (beta != 0) {
    gradient = gradient - exponentials(times(tile, beta), axis, own(hard_sum), times(own(pull), weight));
  }
  if (how.label_smoothing != 0) {
    gradient = gradient - along(times(own(even), weight * (1 + beta)).value().to(tile.dtype()), axis);
  }
  return gradient;
}

RowTotals::RowTotals(const Weighting& weighting, std::int64_t rows, double of_each, Device device) : how(weighting) {
  const auto filled = [&](double value) { return Tensor::full({rows}, value, DType::kFloat64, device); };
  largest = filled(kNothing);
  exponentials = filled(0);
  if (how.hardness != 0) hard = filled(0);
  if (how.label_smoothing != 0) logits = filled(0);
  if (how.needs_counts()) negatives = filled(of_each);
}

void RowTotals::add(const Variable& tile, int axis, std::int64_t first) {
  const int over = 1 - axis;
  const Variable top = ops::max(tile, over);
  const Variable below = tile - along(top, axis);
  const auto sum = [&](double factor) { return wide(ops::sum(ops::exp(times(below, factor)), over)); };
  merge(first, wide(top), sum(1 + how.hardness), how.hardness == 0 ? Variable() : sum(how.hardness));
}

void RowTotals::add(const Variable& summands, std::int64_t first) {
  merge(first, summands, Tensor::full(summands.shape(), 1, DType::kFloat64, summands.device()), {});
}

void RowTotals::merge(std::int64_t first, const Variable& top, const Variable& more, const Variable& more_hard) {
  const std::int64_t rows = top.size(0);
  Tensor so_far = largest.slice(first, first + rows);
  const Variable before = so_far.clone();
  const Variable now = ops::max(ops::reshape(ops::concat({before, top}), {2, rows}), 0);
  const auto join = [&](Tensor& all, double factor, const Variable& summand) {
    Tensor sum = all.slice(first, first + rows);
    sum.copy_from(
        (Variable(sum) * ops::exp(times(before - now, factor)) + summand * ops::exp(times(top - now, factor))).value());
  };
  join(exponentials, 1 + how.hardness, more);
  if (how.hardness != 0) join(hard, how.hardness, more_hard);
  so_far.copy_from(now.value());
}

void RowTotals::add_to(Tensor& vector, std::int64_t first, const Variable& x) {
  vector.slice(first, first + x.size(0)).accumulate(x.value().to(DType::kFloat64));
}

RowConstants RowTotals::finish(const Tensor& positives, bool with_positives) const {
  const double beta = how.hardness, epsilon = how.label_smoothing;
  const Variable top(largest), positive(positives);
  RowConstants of;
  // log Σ exp z' of the negatives and, with_positives, the positive
  Variable all = times(top, 1 + beta) + ops::log(Variable(exponentials)), mean;
  if (beta != 0) {
    const Variable sum = times(top, beta) + ops::log(Variable(hard));
    // Where a row has no negative left, nothing is weighted.
    mean = sum - ops::log(ops::clamp(Variable(negatives), 1, std::numeric_limits<double>::infinity()));
    all = all - mean;
    of.hard_sum = sum.value();
  }
  Variable losses, share;  // the share of the negatives: P
  if (with_positives) {
    losses = all - positive;
    share = 1.0 - ops::exp(-losses);
  } else {
    losses = ops::softplus(all - positive);
    share = ops::sigmoid(all - positive);
    all = positive + losses;
  }
  of.normalizer = (mean.defined() ? all + mean : all).value();
  if (epsilon != 0) {
    const Variable n(negatives), even = epsilon / (n + 1.0);
    const Variable known = mean.defined() ? positive - n * mean : positive;
    losses = losses + times(positive, epsilon) - even * known;
    share = share - even * n;
    of.even = even.value();
  }
  if (beta != 0) of.pull = times(share, beta).value();
  of.of_positive = ops::negate(share).value();
  of.losses = losses.value();
  return of;
}

}  // namespace tapecache::losses::detail
