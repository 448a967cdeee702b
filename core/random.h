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

/// The state the next stochastic op of this thread draws from. Set seed and step before a training step; restore a
/// saved copy to replay.
RandomState& random_state();

/// Starts a step: draws depend on (seed, step) from here on, and the call number is 0. Within a `CapturedStep`, draws on its
/// device have the step number that its replay was given.
void begin_random_step(std::uint64_t seed, std::uint32_t step);

/// What one stochastic op draws from: the current key, and the samples it covers.
struct RandomDraw {
  RandomKey key;
  std::int64_t first_sample = 0;
  std::int64_t samples = 0;
  Tensor sample_ids = {};  ///< as in RandomState
};

/// Takes the next call number for an op over `leading` rows. Throws ShapeError naming `op` where the rows are not
/// a multiple of the samples in view.
RandomDraw next_random_draw(const char* op, std::int64_t leading);

/// Restores the random state on leaving the scope, so that what ran inside leaves no trace.
class RandomStateGuard {
 public:
  RandomStateGuard() : saved_(random_state()) {}
  ~RandomStateGuard() { random_state() = saved_; }
  RandomStateGuard(const RandomStateGuard&) = delete;
  RandomStateGuard& operator=(const RandomStateGuard&) = delete;

 private:
  RandomState saved_;
};

}  // namespace tapecache
