#include <algorithm>

#include <fmt/format.h>

#include "tapecache/core/captured_step.h"
#include "tapecache/core/memory_scopes.h"
#include "tapecache/gradcache/cached_run.h"
#include "tapecache/gradcache/step_checks.h"

namespace tapecache::gradcache {

namespace {

/// Half of a chunk size, in whole blocks where the sums are taken in blocks.
std::int64_t halved(std::int64_t size, const StepOptions& options) {
  const std::int64_t unit = detail::chunk_unit(options);
  return std::max(unit, size / 2 / unit * unit);
}

/// Makes the chunks smaller. False where none could be.
bool halve_chunks(StepOptions& options, std::span<const Tower> towers, std::span<const Chunks> chunks) {
  bool changed = false;
  std::vector<std::int64_t> sizes;
  bool by_cost = false;
  for (std::size_t i = 0; i < towers.size(); ++i) {
    std::int64_t largest = 0;
    for (const Chunk& chunk : chunks[i].parts) largest = std::max(largest, chunk.size());
    const bool ordered = !chunks[i].order.empty();
    const bool given = !towers[i].own_chunks().empty();
    sizes.push_back(given || ordered ? std::max<std::int64_t>(1, largest) : halved(largest, options));
    changed = changed || sizes.back() < largest;
    by_cost = by_cost || (ordered && largest > 1);
  }
  if (by_cost) {
    options.chunk_tokens = std::max<std::int64_t>(1, options.chunk_tokens / 2);
    changed = true;
  }
  options.memory_plan.reset();
  options.chunk_sizes = std::move(sizes);
  return changed;
}

}  // namespace

StepResult cached_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  detail::check_step("cached_step", towers, options);
  detail::check_has_loss("cached_step", loss);
  if ((options.memory_budget || options.memory_plan) && !options.chunk_sizes.empty()) {
    const char* other = options.memory_budget ? "memory_budget, which chooses them" : "memory_plan, which has its own";
    throw ValueError(fmt::format("cached_step: both chunk_sizes and a {}; give one of the two", other));
  }
  if (options.memory_budget && !options.memory_plan && CapturedStep::is_capturing()) {
    throw ValueError("cached_step: a step that is recorded cannot measure what fits its memory_budget; give a memory_plan");
  }
  const PeakMeter meter(options.device);
  const MemoryLimit within(options.memory_budget ? options.memory_budget->bytes : 0, options.device);
  StepOptions current = options;
  if (options.memory_budget && !options.memory_plan) current.memory_plan = plan_memory(towers, options);
  std::int64_t keep = current.memory_plan ? current.memory_plan->kept_chunks : 0;
  for (std::int64_t retries = 0;; ++retries) {
    const std::vector<Chunks> chunks = detail::cut_towers("cached_step", towers, current);
    GradientTransaction transaction;
    StepResult result;
    try {
      result = detail::CachedRun(towers, loss, current, chunks, keep).run(transaction);
    } catch (const OutOfMemory&) {
      transaction.roll_back();
      if (keep > 0) {
        keep /= 2;  // the plan was too hopeful
        continue;
      }
      const bool again = options.retry_smaller_chunks || options.memory_budget;
      if (!again || !halve_chunks(current, towers, chunks)) throw;
      continue;
    }
    result.retries = retries;
    result.peak_bytes = meter.peak();
    detail::commit_step(transaction, result, options);
    return result;
  }
}

}  // namespace tapecache::gradcache
