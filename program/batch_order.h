#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "pairs_file.h"

namespace tapecache::program {

/// Which pairs each step takes: those of an epoch are shuffled by (seed, epoch), and what is left at its end, being
/// fewer than a batch, is left out. A step's depend on nothing else, so that a run can go on from any.
class BatchOrder {
 public:
  /// `batch` is at most `pairs`.
  BatchOrder(std::int64_t pairs, std::int64_t batch, std::uint64_t seed) : pairs_(pairs), batch_(batch), seed_(seed) {}

  std::int64_t steps_per_epoch() const { return pairs_ / batch_; }
  std::int64_t epoch(std::int64_t step) const { return step / steps_per_epoch(); }
  std::vector<std::int64_t> rows(std::int64_t step);

 private:
  std::int64_t pairs_, batch_;
  std::uint64_t seed_;
  std::int64_t epoch_ = -1;
  std::vector<std::int64_t> order_;  // of that epoch
};

/// Rows 0 to `count`, in an order that the seed and the number of the shuffle give.
std::vector<std::int64_t> shuffled(std::int64_t count, std::uint64_t seed, std::uint64_t number);

/// Pairs for training and, apart, those held out: about a share of all, at most `most`. Pairs of one anchor are on one
/// side.
std::pair<Pairs, Pairs> held_out(const Pairs& pairs, double share, std::int64_t most, std::uint64_t seed);

}  // namespace tapecache::program
