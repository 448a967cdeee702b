#pragma once

#include <span>

#include "tapecache/gradcache/step.h"

namespace tapecache::gradcache {

/// Plans the `cached_step` with these options, whose cut is a memory budget: measures a small and a larger chunk of
/// each tower, forward and backward, and chooses chunks of at most a quarter of what is left (or, where that is less
/// than 8 samples or a reproducible block, of up to so many as all of it holds), and as many kept tapes as fit beside
/// the work on one chunk. Leaves gradients, random state and peak counter as they were. Throws ValueError without a
/// budget and for what `cached_step` refuses, OutOfMemory where the budget does not hold one sample; of a reproducible
/// step chunks are a block at least, whether it fits or not. With a communicator all ranks call it, and each gets its
/// own plan.
MemoryPlan plan_memory(std::span<const Tower> towers, const StepOptions& options);

}  // namespace tapecache::gradcache
