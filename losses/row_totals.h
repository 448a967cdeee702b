#pragma once

#include <cstdint>

#include "tapecache/losses/checks.h"

#pragma GCC visibility push(hidden)

/// Softmax losses of rows that are seen a tile at a time. Private to losses.
///
/// A row has the logits z of its positive p and of its negatives j, n of them. With hardness β and label smoothing ε
///
///     z'ⱼ = (1 + β) zⱼ - m,  m = log Σⱼ exp(β zⱼ) - log n,  z'ₚ = zₚ,  L = log Σ exp z'
///     loss = L - (1 - ε) zₚ - ε/(n + 1) Σ z'
///
/// so that sums over negatives are all that it takes of them. What is said of rows is also true of columns.
namespace tapecache::losses::detail {

struct Weighting {
  double label_smoothing = 0, hardness = 0;

  bool needs_counts() const { return label_smoothing != 0 || hardness != 0; }
  /// Stands for the logit of a pair that is left out, so that also times 1 + β it is finite.
  double excluded() const { return kExcluded / (1 + hardness); }
};

/// What backward asks of each row, f64 [rows]; what is not needed is undefined.
struct RowConstants {
  Tensor normalizer;   // L + m
  Tensor hard_sum;     // log Σⱼ exp(β zⱼ)
  Tensor pull;         // β (P - ε n/(n + 1)), P being the negatives' share of exp L
  Tensor even;         // ε/(n + 1)
  Tensor of_positive;  // d loss / d zₚ = -(P - ε n/(n + 1))
  Tensor losses;       // all of the loss but -ε (1 + β)/(n + 1) Σⱼ zⱼ

  /// weight · d loss / dz of a tile's negatives, in the tile's type. Rows are [first, …), along axis 0 of the tile, or
  /// its columns along axis 1. Where a pair is left out, it is 0 but for label smoothing.
  Variable gradient(const Weighting& how, const Variable& tile, int axis, std::int64_t first, double weight) const;
};

/// Sums over negatives so far, f64 [rows].
struct RowTotals {
  /// Each row has `negatives`, less those that are left out.
  RowTotals(const Weighting& how, std::int64_t rows, double negatives, Device device);

  /// A tile of logits with `excluded` where pairs are left out; rows as in RowConstants::gradient.
  void add(const Variable& tile, int axis, std::int64_t first);
  /// One more summand of each row, f64.
  void add(const Variable& logits, std::int64_t first);
  /// To a row's sums those of logits whose largest is `top`, f64.
  void merge(std::int64_t first, const Variable& top, const Variable& exponentials, const Variable& hard);
  /// Adds to a vector's elements from `first` on.
  static void add_to(Tensor& vector, std::int64_t first, const Variable& x);

  /// Of rows with these logits of positives, f64. `with_positives`: these are among the summands, without hardness.
  RowConstants finish(const Tensor& positives, bool with_positives) const;

  Weighting how;
  Tensor largest, exponentials, hard;  // Σ exp((1 + β)(z - largest)), Σ exp(β (z - largest))
  Tensor logits;                       // Σ z
  Tensor negatives;
};

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
