#pragma once

#include <cstdint>

#include "tapecache/core/philox.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// The position of this thread in its random stream: which step it is in, how many stochastic calls the step has
/// made, and which samples of the batch the running code sees.
struct RandomState {
  RandomKey key;
  std::int64_t first_sample = 0;  ///< global index of the first sample in view
  std::int64_t samples = 0;       ///< samples in view; 0: each op takes the size of its axis 0
  /// i64 [samples] on the CPU: the global index of each sample in view, where they do not follow one another; then
  /// first_sample says nothing. Else undefined.
  Tensor sample_ids = {};

  bool operator==(const RandomState&) const;
};

/// The state the next stochastic op of this thread draws from (`ForwardContext::random`). Set seed and step before a
/// training step; restore a saved copy to replay.
RandomState& random_state();

/// Starts a step: draws depend on (seed, step) from here on, and the call number is 0. Within a `CapturedStep`, draws
/// on its device have the step number that its replay was given.
void begin_random_step(std::uint64_t seed, std::uint32_t step);

/// What an op over `leading` rows draws from, with the number of the samples that it covers; the next op takes the next
/// call number. Throws ShapeError naming `op` where the rows are not a multiple of the samples in view.
RandomState next_random_draw(const char* op, std::int64_t leading);

}  // namespace tapecache
