#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "tapecache/core/dtype.h"
#include "tapecache/distributed/communicator.h"
#include "tapecache/distributed/mpi/messenger.h"

#pragma GCC visibility push(hidden)

/// The calls of a communicator, made of messages between two ranks. Not MPI's own collectives, which have no deadline,
/// cannot be given up and do not promise the order of additions. All together send the least that
/// is possible, and where shares are even each rank its part of it: of n bytes on W ranks, (W - 1) / W n for a gather
/// or a reduce-scatter, and twice that for an all-reduce of more than a few kB.
namespace tapecache::distributed::detail {

/// Where each rank's share begins, in bytes, and the end of the last.
using Bounds = std::vector<std::size_t>;

/// Every rank has its own share in `all` already.
void gather(Messenger& messenger, std::byte* all, const Bounds& bounds);
/// Of each share of `all` the sum, which is in `own` on its rank. `own` may be in `all`.
void reduce_shares(Messenger& messenger, const std::byte* all, const Bounds& bounds, std::byte* own, DType dtype,
                   Communicator::Reduction reduction);
void reduce_all(Messenger& messenger, std::byte* values, std::size_t bytes, DType dtype,
                Communicator::Reduction reduction);
void hand_out(Messenger& messenger, std::byte* values, std::size_t bytes, int root);
void meet(Messenger& messenger);

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
