#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/distributed/communicator.h"

#pragma GCC visibility push(hidden)

/// Losses of which each rank computes its own rows. Private to losses.
///
/// Each rank records what its own rows have to do with the loss L = Σ over ranks of what they compute + what they all
/// compute alike. So a gradient with respect to what ranks have together is the sum of what each finds, and one with
/// respect to their sum is each summand's.
namespace tapecache::losses::detail {

/// The rows of all ranks. Backward adds what all ranks find for them, and hands each its own.
Variable gather_rows(distributed::Communicator& ranks, const Variable& rows, const std::vector<std::int64_t>& counts);
/// Σ over ranks, the same for all of them.
Variable sum_over_ranks(distributed::Communicator& ranks, const Variable& x);
/// The largest over ranks, a constant.
Tensor max_over_ranks(distributed::Communicator& ranks, const Tensor& x);
/// What every rank has alike, as a parameter of the loss is. Backward adds what all ranks find for it.
Variable common(distributed::Communicator& ranks, const Variable& x);
/// The rows that each rank has.
std::vector<std::int64_t> row_counts(distributed::Communicator& ranks, std::int64_t own);

/// Takes a loss whose calls meet those of other ranks. Who cannot go on tells them.
Variable take_shared(distributed::Communicator& ranks, const std::function<Variable()>& loss);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
