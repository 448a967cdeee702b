#include "tapecache/gradcache/chunks.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "tapecache/core/captured_step.h"

namespace tapecache::gradcache {

std::int64_t Chunks::largest() const {
  std::int64_t largest = 0;
  for (const Chunk& chunk : parts) largest = std::max(largest, chunk.size());
  return largest;
}

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

std::vector<Chunks> cut_towers(const char* step, std::span<const Tower> towers, const MemoryPlan& plan,
                               std::int64_t reproducible_block, bool offload) {
  const std::vector<std::int64_t>& sizes = plan.chunk_sizes;
  if (plan.chunk_tokens < 0) {
    throw ValueError(
        fmt::format("{}: chunks of {} tokens, expected at least 1, or 0 for none", step, plan.chunk_tokens));
  }
  if (plan.chunk_tokens > 0 && reproducible_block > 0) {
    throw ValueError(
        fmt::format("{}: chunks by tokens cannot be reproducible, whose blocks are {} samples in batch "
                    "order",
                    step, reproducible_block));
  }
  std::vector<Chunks> chunks;
  for (std::size_t i = 0; i < towers.size(); ++i) {
    const Tower& tower = towers[i];
    if (!tower.own_chunks().empty() || tower.size() == 0) {
      chunks.push_back(cut_as_given(tower.size() == 0 ? std::vector<std::int64_t>{0} : tower.own_chunks()));
      continue;
    }
    if (plan.chunk_tokens > 0 && !tower.lengths().empty()) {
      if (CapturedStep::is_capturing() && (tower.uploads() || offload)) {
        throw ValueError(
            fmt::format("{}: the host gathers the chunks of tower '{}', which are ordered by length, where they are "
                        "uploaded or off-loaded: a captured step may not; cut by ChunkSizes",
                        step, tower.name()));
      }
      chunks.push_back(cut_by_cost(tower.lengths(), plan.chunk_tokens));
      continue;
    }
    if (plan.chunk_tokens > 0 && sizes.empty()) {
      throw ValueError(
          fmt::format("{}: chunks by tokens cannot cut tower '{}', whose input has no lengths; give "
                      "ChunkTokens::other_towers, or a MemoryBudget",
                      step, tower.name()));
    }
    if (sizes.size() != 1 && sizes.size() != towers.size()) {
      throw ValueError(fmt::format("{}: {} chunk sizes for {} towers, expected one for all or one each{}", step,
                                   sizes.size(), towers.size(),
                                   sizes.empty() ? ", or ChunkTokens, or a MemoryBudget" : ""));
    }
    const std::int64_t size = sizes[sizes.size() == 1 ? 0 : i];
    if (size < 1) {
      throw ValueError(fmt::format("{}: chunk size {} for tower '{}', expected at least 1", step, size, tower.name()));
    }
    if (reproducible_block > 0 && size % reproducible_block != 0 && size < tower.size()) {
      throw ValueError(
          fmt::format("{}: chunk size {} for tower '{}', expected a multiple of {} for a reproducible step", step, size,
                      tower.name(), reproducible_block));
    }
    chunks.push_back(cut_by_count(tower.size(), size));
  }
  return chunks;
}

Tensor take_rows(const Tensor& batch, const Chunks& chunks, const Chunk& chunk) {
  if (chunks.order.empty()) return batch.slice(chunk.begin - chunks.begin(), chunk.end - chunks.begin());
  return detail::select_rows(batch, chunks.samples(chunk));
}

void put_rows(Tensor& batch, const Chunks& chunks, const Chunk& chunk, const Tensor& rows) {
  if (chunks.order.empty()) {
    batch.slice(chunk.begin - chunks.begin(), chunk.end - chunks.begin()).copy_from_async(rows);
    return;
  }
  const std::span<const std::int64_t> samples = chunks.samples(chunk);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    batch.slice(samples[i], samples[i] + 1).copy_from_async(rows.slice(row, row + 1));
  }
}

}  // namespace tapecache::gradcache
