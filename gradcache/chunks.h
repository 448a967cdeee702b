#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tapecache/gradcache/step.h"
#include "tapecache/gradcache/tower.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache {

/// Places [begin, end) in a tower's order.
struct Chunk {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

/// How a tower's batch, or places of it that follow one another, is cut.
struct Chunks {
  std::vector<Chunk> parts;
  /// The sample at each place; empty where that is the batch's own order.
  std::vector<std::int64_t> order;

  std::int64_t begin() const { return parts.front().begin; }
  std::int64_t size() const { return parts.back().end - begin(); }
  std::int64_t largest() const;
  std::span<const std::int64_t> samples(const Chunk& chunk) const {
    return std::span(order).subspan(static_cast<std::size_t>(chunk.begin), static_cast<std::size_t>(chunk.size()));
  }
};

/// Chunks of `size` samples; the last may be smaller.
Chunks cut_by_count(std::int64_t samples, std::int64_t size);

/// Chunks that cost at most `budget` each, where a chunk costs its number of samples times its longest: samples are
/// ordered by length, equal ones as they come, and a chunk takes as many as fit. One that alone costs more is a chunk
/// by itself.
Chunks cut_by_cost(std::span<const std::int64_t> lengths, std::int64_t budget);

/// The chunks that the caller made.
Chunks cut_as_given(std::span<const std::int64_t> sizes);

/// The chunks of every tower, by a plan that says how to cut. Throws ValueError, naming the step, for sizes that are
/// missing, too many, below 1, or no multiple of the reproducible block (1 for none); for fewer than 0 tokens, or for
/// tokens in blocks; and in a captured step, for tokens where the host gathers rows: of an uploading tower, or
/// `offload`.
std::vector<Chunks> cut_towers(const char* step, std::span<const Tower> towers, const MemoryPlan& plan,
                               std::int64_t reproducible_block, bool offload);

/// Rows of `batch`, which holds those of all chunks (in batch order), that belong to a chunk: a view where the order is
/// the batch's own, else a copy.
Tensor take_rows(const Tensor& batch, const Chunks& chunks, const Chunk& chunk);

/// Writes a chunk's rows to their places in such a batch, which may be in the host's page-locked memory where the rows
/// are on a device: then beside what that computes.
void put_rows(Tensor& batch, const Chunks& chunks, const Chunk& chunk, const Tensor& rows);

}  // namespace tapecache::gradcache

#pragma GCC visibility pop
