#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/equal_pairs.h"

/// Which pairs of samples are positives, and which are no negatives. All arrays are contiguous and row-major.
namespace tapecache::kernels {

/// Candidates [rows, cols] that a guide finds nearer than a row's positive, whose similarity is number i ·
/// positive_step of an array for row i.
struct FalseNegatives {
  std::int64_t rows = 0, cols = 0, positive_step = 0;
  std::int64_t kept_step = 0;  ///< where it is not 0, column i · kept_step of row i is none of them
  bool self = false;           ///< whether column i is, whatever the guide finds: row i itself
  double margin = 0;
  bool relative = false;  ///< whether the margin is a share of the positive's similarity

  /// What the similarity of one exceeds.
  constexpr double threshold(double positive) const {
    return positive - (relative ? margin * (positive < 0 ? -positive : positive) : margin);
  }
};

template <class T>
struct PairMaskKernels {
  // pairs [n, n] has 1 / (A · |P(i)|) at the others of row i's label, P(i), where A rows have any, and 0 elsewhere.
  // `any` is one element: whether there is such a row.
  void (*positive_pairs)(std::int64_t n, const std::int64_t* labels, T* pairs, bool* any);
  // mask [rows, cols] has `excluded` at the false negatives and 0 elsewhere. A similarity that is NaN is of none.
  void (*false_negatives)(const FalseNegatives&, const double* similarities, const double* positives, T excluded,
                          T* mask);

  // mask [queries, targets] has 1 at the pairs that are left out and 0 elsewhere.
  void (*excluded_pairs)(const EqualPairs&, std::int64_t queries, std::int64_t targets, T* mask);
  // ids[i] is the first of the rows [rows, tokens, width] that has the bits of row i at its valid tokens, and the same
  // tokens valid. `valid` may be null.
  void (*equal_rows)(std::int64_t rows, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid,
                     std::int64_t* ids);
};

}  // namespace tapecache::kernels
