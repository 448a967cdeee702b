#pragma once

#include <cmath>
#include <limits>

#include "tapecache/ops/cuda/pair.cuh"
#include "tapecache/ops/cuda/row_logsumexp.cuh"
#include "tapecache/ops/cuda/row_threads.cuh"
#include "tapecache/ops/cuda/scratch.h"
#include "tapecache/ops/cuda/sum_terms.cuh"

/// What losses over tiles of logits share. The tiles of a group lie beside each other in memory, and one kernel takes
/// them together, as a panel. Panels of one row of tiles come in the order of their columns, rows of tiles in theirs:
/// so are sums over both.
namespace tapecache::kernels::cuda {

/// The maximum of a sum without summands.
constexpr double kNoSummand = -std::numeric_limits<double>::infinity();

/// Maximum and sum of exponentials relative to it.
struct Exponentials {
  double largest, sum;
};

template <class T>
__device__ Exponentials exponentials(T shift, T sum) {
  return {sum == T{0} ? kNoSummand : static_cast<double>(shift), static_cast<double>(sum)};
}

/// Many of them, whose summands come in parts.
struct RunningLogSumExp {
  double *largest, *sum;

  __device__ void add(std::int64_t i, const Exponentials& part, bool is_first) const {
    const double before = is_first ? kNoSummand : largest[i], so_far = is_first ? 0 : sum[i];
    const double top = part.largest > before ? part.largest : before;
    largest[i] = top;
    sum[i] = top == kNoSummand ? so_far + part.sum  // nothing yet, or NaN
                               : so_far * std::exp(before - top) + part.sum * std::exp(part.largest - top);
  }
  __device__ double logsumexp(std::int64_t i) const {
    return largest[i] == kNoSummand ? sum[i] + kNoSummand : largest[i] + std::log(sum[i]);
  }
};

/// In the place of EqualPairs where all targets differ, so that kernels that leave nothing out are compiled apart.
struct NoEqualPairs {
  __device__ bool excludes(std::int64_t, std::int64_t) const { return false; }
};

/// Calls f with the pairs that a loss leaves out.
template <class F>
void with_equal_pairs(const EqualPairs& equal, const F& f) {
  if (equal.some()) f(equal);
  else f(NoEqualPairs{});
}

/// The logits of row `row` from column `col` on.
template <class T, class Equal>
struct Logits {
  const T* z;
  T scale, bias;
  Equal equal;
  std::int64_t row, col;

  __device__ T of(std::int64_t at, T product) const {
    return equal.excludes(row, col + at) ? static_cast<T>(kExcluded) : product * scale + bias;
  }
  __device__ T operator()(std::int64_t at) const { return of(at, z[at]); }
};

/// The logits scale · z + bias of rows [row, row + rows) and columns [col, col + cols) of a loss. The positive of row i
/// is column i · step.
template <class T, class Equal>
struct Panel {
  T* z;
  const T *scale, *bias;  // one element each; no bias where that is null
  std::int64_t row, col, rows, cols, pitch, step;
  Equal equal;

  __device__ T* line(std::int64_t i) const { return z + i * pitch; }
  __device__ Logits<T, Equal> logits(std::int64_t i) const {
    return {line(i), *scale, bias ? *bias : T{0}, equal, row + i, col};
  }
  /// The column within the panel of the positive of row i, or -1.
  __device__ std::int64_t positive(std::int64_t i) const {
    const std::int64_t at = (row + i) * step - col;
    return at >= 0 && at < cols ? at : -1;
  }
};

/// Adds a panel to the sums of its rows, and remembers the logits of positives. `logsumexp` is of all rows.
template <class T, class Equal, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    add_rows_kernel(Panel<T, Equal> panel, RunningLogSumExp rows, double* positives, bool is_last, double* logsumexp) {
  for (std::int64_t i = By::first_row(); i < panel.rows; i += By::row_step()) {
    const Row<By, Logits<T, Equal>> row(panel.cols, panel.logits(i));
    const T largest = row.maximum(), shift = std::isfinite(largest) ? largest : T{0};
    const T sum = row.sum([=](std::int64_t, T z) { return std::exp(z - shift); });
    if (By::thread() != 0) continue;
    rows.add(i, exponentials(shift, sum), panel.col == 0);
    if (is_last) logsumexp[panel.row + i] = rows.logsumexp(i);
    const std::int64_t positive = panel.positive(i);
    if (positive >= 0) positives[i] = static_cast<double>(panel.logits(i)(positive));
  }
}

template <class T, class Equal>
void add_rows(const Panel<T, Equal>& panel, const RunningLogSumExp& rows, double* positives, bool is_last,
              double* logsumexp) {
  with_row_threads(panel.rows, panel.cols, [&]<class By>(By, const Grid& grid) {
    launch(add_rows_kernel<T, Equal, By>, grid, panel, rows, positives, is_last, logsumexp);
  });
}

/// What a row of tiles adds to a loss.
struct RowLoss {
  const double *logsumexp, *positives;
  double positive_weight;
  __device__ double operator()(std::int64_t, std::int64_t i) const {
    return logsumexp[i] - positive_weight * positives[i];
  }
};

struct Summand {
  const double* of_rows;
  __device__ double operator()(std::int64_t, std::int64_t i) const { return of_rows[i]; }
};

/// Adds a term for each row to a total, which the first row of tiles sets.
template <class Term>
void add_to_total(std::int64_t rows, const Term& term, double* total, bool is_first) {
  sum_terms<Adjacent::kTerms>(1, rows, term, 1.0, total, is_first ? Mode::kWrite : Mode::kAccumulate);
}

/// What a total comes to as a result: that total over a number.
template <class T>
__global__ void store_total_kernel(const double* total, double divisor, T* to) {
  *to = static_cast<T>(*total / divisor);
}

template <class T>
void store_total(const double* total, double divisor, T* to) {
  launch(store_total_kernel<T>, Grid{1, 1}, total, divisor, to);
}

/// What a loss that is a mean over rows gives to each: its cotangent over their number.
template <class T>
struct Cotangent {
  const T* dloss;
  double rows;
  __device__ T share() const { return static_cast<T>(static_cast<double>(*dloss) / rows); }
};

template <class T>
__global__ void split_kernel(std::int64_t n, const double* logsumexp, LogSumExp<T>* parts) {
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) {
    const T shift = static_cast<T>(logsumexp[i]);
    parts[i] = {shift, std::isfinite(shift) ? static_cast<T>(logsumexp[i] - static_cast<double>(shift)) : T{0}};
  }
}

/// Logsumexps of f64 in parts of T, as gradients take them.
template <class T>
class Normalizers {
 public:
  Normalizers(std::int64_t n, const double* logsumexp) : parts_(n) {
    if (n > 0) launch(split_kernel<T>, grid_for(n), n, logsumexp, parts_.data());
  }
  const LogSumExp<T>* data() const { return parts_.data(); }

 private:
  Scratch<LogSumExp<T>> parts_;
};

template <class T>
__device__ T softmax(T logit, const LogSumExp<T>& normalizer) {
  return std::exp(logit - normalizer.shift - normalizer.rest);
}

/// share · softmax of each row, less the share at its positive.
template <class T>
struct RowSoftmax {
  const LogSumExp<T>* rows;
  __device__ T operator()(std::int64_t row, std::int64_t, T logit, T share, bool is_positive) const {
    return share * softmax(logit, rows[row]) - (is_positive ? share : T{0});
  }
};

/// Turns z into scale · dZ, where dZ is what `slope(row, column, logit, share, is_positive)` says. Each row's Σ dZ and
/// Σ dZ · z over all panels are its summands of dbias and dscale.
template <class T, class Equal, class By, class Slope>
__global__ void __launch_bounds__(kMaxRowThreads)
    differentiate_kernel(Panel<T, Equal> panel, Slope slope, Cotangent<T> cotangent, double* of_bias,
                         double* of_scale) {
  const T share = cotangent.share(), scale = *panel.scale;
  for (std::int64_t i = By::first_row(); i < panel.rows; i += By::row_step()) {
    T* line = panel.line(i);
    const std::int64_t positive = panel.positive(i);
    const Logits<T, Equal> logits = panel.logits(i);
    const Row<By, Elements<T>> row(panel.cols, {line});
    const Pair<double> sums = row.sum([=](std::int64_t j, T z) {
      const T dz = slope(panel.row + i, panel.col + j, logits.of(j, z), share, j == positive);
      line[j] = scale * dz;
      return Pair<double>(static_cast<double>(dz), static_cast<double>(dz) * static_cast<double>(z));
    });
    if (By::thread() != 0) continue;
    of_bias[i] = panel.col == 0 ? sums.first : of_bias[i] + sums.first;
    of_scale[i] = panel.col == 0 ? sums.second : of_scale[i] + sums.second;
  }
}

template <class T, class Equal, class Slope>
void differentiate(const Panel<T, Equal>& panel, const Slope& slope, const Cotangent<T>& cotangent, double* of_bias,
                   double* of_scale) {
  with_row_threads(panel.rows, panel.cols, [&]<class By>(By, const Grid& grid) {
    launch(differentiate_kernel<T, Equal, By, Slope>, grid, panel, slope, cotangent, of_bias, of_scale);
  });
}

}  // namespace tapecache::kernels::cuda
