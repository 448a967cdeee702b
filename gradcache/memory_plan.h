#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tapecache/gradcache/tower.h"

namespace tapecache::gradcache {

struct StepOptions;

/// The most bytes that may be in use at once during a step, what was in use before it and what other threads use included:
/// of steps that overlap, all stay within the smallest budget.
struct MemoryBudget {
  std::size_t bytes = 0;
};

/// How a step fits into a budget.
struct MemoryPlan {
  /// Samples a chunk, one number a tower; 0 where the cuts are given otherwise (own chunks, a token budget).
  std::vector<std::int64_t> chunk_sizes = {};
  /// The chunks forwarded last that keep their tape until their backward.
  std::int64_t kept_chunks = 0;
};

/// Measures a small and a larger chunk of each tower, forward and backward, and chooses: chunks of at most a quarter
/// of what is left (or, where that is less than 8 samples or a reproducible block, of up to so many as all of it holds), and as
/// many kept tapes as fit beside the work on one chunk. Leaves gradients, random state and peak counter as they were. Throws
/// ValueError without a budget and for what `cached_step` refuses, OutOfMemory where the budget does not hold one sample; of a
/// reproducible step chunks are a block at least, whether it fits or not.
MemoryPlan plan_memory(std::span<const Tower> towers, const StepOptions& options);

}  // namespace tapecache::gradcache
