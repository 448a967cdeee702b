#include "tapecache/gradcache/chunks.h"

#include <algorithm>
#include <numeric>

namespace tapecache::gradcache {

Chunks cut_by_count(std::int64_t samples, std::int64_t size) {
  Chunks chunks;
  for (std::int64_t begin = 0; begin < samples;) {
    const std::int64_t end = begin + std::min(size, samples - begin);
    chunks.parts.push_back({begin, end});
    begin = end;
  }
  return chunks;
}

Chunks cut_by_cost(std::span<const std::int64_t> lengths, std::int64_t budget) {
  Chunks chunks;
  chunks.order.resize(lengths.size());
  std::iota(chunks.order.begin(), chunks.order.end(), std::int64_t{0});
  const auto length = [&](std::int64_t sample) { return lengths[static_cast<std::size_t>(sample)]; };
  std::stable_sort(chunks.order.begin(), chunks.order.end(),
                   [&](std::int64_t a, std::int64_t b) { return length(a) < length(b); });
  const auto samples = static_cast<std::int64_t>(lengths.size());
  for (std::int64_t begin = 0; begin < samples;) {
    std::int64_t end = begin + 1;
    // In ascending order the sample that comes last is the longest.
    while (end < samples && (end + 1 - begin) * length(chunks.order[static_cast<std::size_t>(end)]) <= budget) ++end;
    chunks.parts.push_back({begin, end});
    begin = end;
  }
  return chunks;
}

Chunks cut_as_given(std::span<const std::int64_t> sizes) {
  Chunks chunks;
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    chunks.parts.push_back({begin, begin + size});
    begin += size;
  }
  return chunks;
}

Tensor take_rows(const Tensor& batch, const Chunks& chunks, const Chunk& chunk) {
  if (chunks.order.empty()) return batch.slice(chunk.begin, chunk.end);
  return detail::select_rows(batch, chunks.samples(chunk));
}

void put_rows(Tensor& batch, const Chunks& chunks, const Chunk& chunk, const Tensor& rows) {
  if (chunks.order.empty()) {
    batch.slice(chunk.begin, chunk.end).copy_from_async(rows);
    return;
  }
  const std::span<const std::int64_t> samples = chunks.samples(chunk);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    batch.slice(samples[i], samples[i] + 1).copy_from_async(rows.slice(row, row + 1));
  }
}

}  // namespace tapecache::gradcache
