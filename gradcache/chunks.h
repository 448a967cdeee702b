#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tapecache/gradcache/tower.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache {

/// Places [begin, end) in a tower's order.
struct Chunk {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

/// How a tower's batch is cut.
struct Chunks {
  std::vector<Chunk> parts;
  /// The sample at each place; empty where that is the batch's own order.
  std::vector<std::int64_t> order;

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

/// Rows of `batch` (in batch order) that belong to a chunk: a view where the order is the batch's own, else a copy.
Tensor take_rows(const Tensor& batch, const Chunks& chunks, const Chunk& chunk);

/// Writes a chunk's rows to their places in the batch, which may be in the host's page-locked memory where the rows are on a
/// device: then beside what that computes.
void put_rows(Tensor& batch, const Chunks& chunks, const Chunk& chunk, const Tensor& rows);

}  // namespace tapecache::gradcache

#pragma GCC visibility pop
