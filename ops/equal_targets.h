#pragma once

#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels/equal_pairs.h"

namespace tapecache::ops {

/// Which targets of a contrastive loss are the same, so that they are no negatives of each other's queries: all that equal a
/// query's positive are left out of its denominator, hard negatives too; the positive stays. Ids, i32 or i64 of any numbers,
/// are copied to the device of the representations. All targets differ where nothing is given.
struct EqualTargets {
  /// [targets]: targets of one id are the same. Where every sample is a pair, one id for it.
  Tensor target_ids = {};
  /// [queries]: queries of one id are the same, and so have each other's positives, which are left out.
  Tensor query_ids = {};
  /// In the place of ids: targets are the same where their representations are, bit by bit, and their masks. Where both sides
  /// are each other's targets, as images and texts are, this is of both. Dropout makes equal samples differ: then give ids.
  bool equal_rows = false;

  bool some() const { return target_ids.defined() || query_ids.defined() || equal_rows; }
};

/// Ids as kernels take them, i64 on the device of the representations, or undefined.
struct PairIds {
  Tensor queries = {}, targets = {};

  bool some() const { return queries.defined() || targets.defined(); }
  /// Over these ids, which must outlive it. The positive of query i is target i · step.
  kernels::EqualPairs pairs(std::int64_t step) const;
};

/// Whose rows equal_rows compares.
enum class RowsOf { kTargets, kBoth };

/// Throws ShapeError or DTypeError for ids of another shape or type, and ValueError for ids beside equal_rows.
void check_equal_targets(const char* op, const EqualTargets& equal, std::int64_t queries, std::int64_t targets);

/// The ids of queries [M, …] and targets [N, …] of f32 or f64 on one device, the last axis being the width. `target_mask` bool
/// [N, tokens] leaves tokens of [N, tokens, width] out of the comparison, where it is defined.
/// Throws as check_equal_targets does.
PairIds pair_ids(const char* op, const EqualTargets& equal, const Tensor& queries, const Tensor& targets, RowsOf rows,
                 const Tensor& target_mask = {});

/// i64 [rows]: of each row of x [rows, width] or [rows, tokens, width], f32 or f64, the first that has its bits, where `mask`,
/// bool [rows, tokens], leaves tokens out.
Tensor equal_row_ids(const Tensor& x, const Tensor& mask = {});

}  // namespace tapecache::ops
