#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <variant>
#include <vector>

#include "tapecache/core/language.h"

namespace tapecache::gradcache {

/// Samples a chunk: one number for all towers, or one a tower. The last chunk of a tower may be smaller. A tower made
/// from chunks keeps its own.
struct ChunkSizes {
  std::vector<std::int64_t> sizes;

  ChunkSizes() = default;
  ChunkSizes(std::initializer_list<std::int64_t> each) : sizes(each) {}
  ChunkSizes(std::vector<std::int64_t> each) : sizes(std::move(each)) {}
};

/// For towers whose samples have lengths: the most tokens (samples times the longest) a chunk may have. Samples are
/// ordered by length, so that each chunk is padded to its own longest alone; a longer sample is a chunk by itself.
struct ChunkTokens {
  std::int64_t tokens = 0;
  ChunkSizes other_towers = {};  ///< of towers whose samples have no lengths
};

/// The most bytes that may be in use at once during a step, what was in use before it and what other threads use
/// included: of steps that overlap, all stay within the smallest budget. Chunks, and how many of them keep their tape,
/// follow from it; on OutOfMemory fewer tapes are kept, then chunks are halved.
struct MemoryBudget {
  std::size_t bytes = 0;
  std::int64_t chunk_tokens =
      0;  ///< for towers whose samples have lengths, as `ChunkTokens::tokens`; 0: they are cut by count
};

/// How a step fits into a budget.
struct MemoryPlan {
  /// Samples a chunk, one number a tower; 0 where the cuts are given otherwise (own chunks, chunk_tokens).
  std::vector<std::int64_t> chunk_sizes = {};
  /// The chunks forwarded last that keep their tape until their backward.
  std::int64_t kept_chunks = 0;
  std::int64_t chunk_tokens = 0;  ///< as in the budget
  std::size_t bytes = 0;          ///< of the budget, which a step by this plan keeps to; 0: no limit
};

/// How the batch of a step is cut into chunks.
struct Cut : std::variant<ChunkSizes, ChunkTokens, MemoryBudget, MemoryPlan> {
  using variant::variant;
  /// `{32}`, for `ChunkSizes{32}`.
  Cut(std::initializer_list<std::int64_t> sizes) : variant(ChunkSizes(sizes)) {}
};

}  // namespace tapecache::gradcache
