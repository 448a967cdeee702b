#pragma once

#include "tapecache/losses/shared.h"
#include "tapecache/ops/equal_targets.h"
#include "tapecache/ops/pair_masks.h"

#pragma GCC visibility push(hidden)

namespace tapecache::losses::detail {

/// Which pairs of the queries and targets of all ranks are left out, where each rank brings its own and their ids; the
/// positive of query i is target i · step. Ids are gathered, 8 bytes a row. Rows are compared by 128 bits that are made
/// of theirs, which are gathered, 16 bytes a row: of N different rows the chance that two are taken for equal is below
/// N² / 2^129. `target_mask` is that of pair_ids.
ops::PairKeys shared_pairs(distributed::Communicator& ranks, const ops::EqualTargets& equal, const Tensor& queries,
                           const Tensor& targets, const Shares& of_queries, const Shares& of_targets, std::int64_t step,
                           ops::RowsOf rows, const Tensor& target_mask = {});
/// The same among the positives of all queries, in the place of all targets.
ops::PairKeys among_positives(const ops::PairKeys& keys);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
