#pragma once

#include <cstdint>
#include <functional>

#include "tapecache/losses/shared.h"

#pragma GCC visibility push(hidden)

namespace tapecache::losses::detail {

/// Some candidates of one rank or of several, which are here for a while.
struct CandidateBlock {
  std::int64_t first = 0;  // among those of all ranks
  Tensor rows;             // [count, width]
  Tensor gradient;         // as large, to be added to; undefined where none is wanted
};

/// The candidates of all ranks, of which each has its own. Where they are gathered a rank holds all of them, and in
/// backward their gradient. In a ring it holds a block: one of each rank is on its way around, and in backward the
/// gradient of the block with it, which every rank adds to.
class Candidates {
 public:
  /// `block` is the most candidates that are visited at once.
  Candidates(distributed::Communicator& ranks, Tensor own, Shares shares, bool ring, std::int64_t block);

  const Shares& shares() const { return shares_; }
  const Tensor& own() const { return own_; }
  /// Calls `visitor` with blocks that are together all candidates, in an order that is this rank's.
  void visit(const std::function<void(CandidateBlock&)>& visitor);
  /// The same once more, with gradients where they are wanted: what all ranks have found for this rank's candidates is
  /// returned. What was gathered is let go of.
  Tensor visit_backward(bool gradient, const std::function<void(CandidateBlock&)>& visitor);
  /// Lets go of what was gathered.
  void release() { all_ = Tensor(); }

 private:
  struct Place {
    std::int64_t first = 0;             // among those of all ranks
    std::int64_t begin = 0, count = 0;  // among its rank's own
  };
  /// What rank `rank` sends around in turn `turn`.
  Place place(int rank, std::int64_t turn) const;
  std::int64_t turns() const;
  void go_around(std::int64_t turn, Tensor* own_gradient, const std::function<void(CandidateBlock&)>& visitor);

  distributed::Communicator& ranks_;
  Tensor own_, all_;
  Shares shares_;
  bool ring_;
  std::int64_t block_;
};

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
