#pragma once

#include "tapecache/core/tensor.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/equal_targets.h"
#include "tapecache/ops/kernels/pair_masks.h"

#pragma GCC visibility push(hidden)

/// Constants over pairs of rows, which losses over all of them take into account. They are made where their arguments
/// are, and on a device without a wait for it.
namespace tapecache::ops {

/// [rows, cols] in f32 or f64: `value` at column i · step of each row i, and 0 elsewhere. Throws ShapeError where a row
/// has no such column.
Tensor diagonal(std::int64_t rows, std::int64_t cols, std::int64_t step, double value, DType dtype, Device device);

/// [n, n] of labels i64 [n], of which every number is a class, in f32 or f64: row i has 1 / (A · |P(i)|) at the others
/// of its class, P(i), where A rows have any, and 0 elsewhere. Throws ValueError saying `none` where no two labels are
/// equal: on a device as value_checks.h says, and then all is 0.
Tensor positive_pairs(const Tensor& labels, DType dtype, const CheckText& none);

/// [rows, cols] in f32 or f64: `excluded` for the candidates that a guide finds nearer than a row's positive, as
/// kernels::FalseNegatives describes them, and 0 for the others. `similarities` are f64 [rows, cols], `positives` f64
/// of any shape that holds one for each row. Throws ShapeError where they do not, or where a row's own column or the
/// kept one is not there, and ValueError for a negative step.
Tensor false_negatives(const kernels::FalseNegatives& rule, const Tensor& similarities, const Tensor& positives,
                       double excluded, DType dtype);

/// [queries, targets] in f32 or f64: 1 at the pairs that are left out, and 0 elsewhere. Throws ShapeError where the
/// targets are no multiple of the queries, or the ids are not as many.
Tensor excluded_pairs(const PairIds& ids, std::int64_t queries, std::int64_t targets, DType dtype);

/// What pairs are compared by, i64: of each query [queries] and of each target [targets] a number, or undefined. A pair
/// is left out where the numbers of either kind are equal.
struct PairKeys {
  Tensor positives = {}, targets = {};       // ids of each query's positive, and of targets
  Tensor queries = {}, target_queries = {};  // ids of queries, and of the query whose positive a target is

  bool some() const { return positives.defined() || queries.defined(); }
};
/// Some queries and some targets of all.
struct PairBlock {
  std::int64_t first_query = 0, queries = 0, first_target = 0, targets = 0;
};
/// Of a block of all pairs 1 at those that are left out, and 0 elsewhere, positives being as any other.
Tensor equal_pairs(const PairKeys& keys, const PairBlock& block, DType dtype);

}  // namespace tapecache::ops

#pragma GCC visibility pop
