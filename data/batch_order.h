#pragma once

#include <cstdint>
#include <vector>

#include "tapecache/core/error.h"

namespace tapecache::data {

/// Which samples each step of a training run takes: those of an epoch are shuffled by (seed, epoch), and what is left
/// at its end, being fewer than a batch, is left out. A step's depend on nothing else, so that a run can go on from
/// any, and with any number of processes.
class BatchOrder {
 public:
  /// Throws ValueError for a batch below 1 or larger than the samples.
  BatchOrder(std::int64_t samples, std::int64_t batch, std::uint64_t seed);

  std::int64_t steps_per_epoch() const { return samples_ / batch_; }
  std::int64_t epoch(std::int64_t step) const { return step / steps_per_epoch(); }
  /// Of the whole batch. Throws ValueError for a step below 0.
  std::vector<std::int64_t> rows(std::int64_t step);
  /// What one of several ranks has of it: with those of the other ranks, in their order, the whole batch. Whole
  /// `reproducible_segments`, where the ranks can share these evenly. Throws ValueError for a rank that there is not.
  std::vector<std::int64_t> rows(std::int64_t step, int rank, int ranks);

  /// Numbers 0 to `count`, in an order that the seed and the number of the shuffle give.
  static std::vector<std::int64_t> shuffled(std::int64_t count, std::uint64_t seed, std::uint64_t number);

 private:
  std::int64_t samples_, batch_;
  std::uint64_t seed_;
  std::int64_t epoch_ = -1;
  std::vector<std::int64_t> order_;  // of that epoch
};

}  // namespace tapecache::data
