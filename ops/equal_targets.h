#pragma once

#include "tapecache/core/tensor.h"
#include "tapecache/ops/contrastive_options.h"
#include "tapecache/ops/kernels/equal_pairs.h"

#pragma GCC visibility push(hidden)

namespace tapecache::ops {

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

/// The ids of queries [M, …] and targets [N, …] of f32 or f64 on one device, the last axis being the width.
/// `target_mask` bool [N, tokens] leaves tokens of [N, tokens, width] out of the comparison, where it is defined.
/// Throws as check_equal_targets does.
PairIds pair_ids(const char* op, const EqualTargets& equal, const Tensor& queries, const Tensor& targets, RowsOf rows,
                 const Tensor& target_mask = {});

/// i64 [rows]: of each row of x [rows, width] or [rows, tokens, width], f32 or f64, the first that has its bits, where
/// `mask`, bool [rows, tokens], leaves tokens out.
Tensor equal_row_ids(const Tensor& x, const Tensor& mask = {});

}  // namespace tapecache::ops

#pragma GCC visibility pop
