#include <functional>

#include "../timing.h"
#include "measurements.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/gradcache/step.h"
#include "workload.h"

namespace gradcache_bench {

using namespace tapecache;
using namespace tapecache::gradcache;

namespace {

/// In chunks of 32.
std::vector<ReproducibleCost> reproducible_cost(Workload& workload, int rounds) {
  constexpr std::int64_t kChunk = 32;
  const std::vector<Tower> towers = workload.towers();
  const Loss loss = workload.loss();
  std::vector<std::function<void()>> runs;
  const auto add = [&](const StepOptions& options) {
    runs.push_back([&, options] {
      cached_step(towers, loss, options);
      workload.clear_gradients();
    });
    runs.push_back([&, options] {
      direct_step(towers, loss, options.direct());
      workload.clear_gradients();
    });
  };
  StepOptions options{{kChunk}};
  add(options);
  options.reproducible_block = 8;
  std::vector<ReproducibleCost> costs;
  for (std::int64_t block = 8; block <= kChunk; block *= 2) {
    options.reproducible_block = block;
    add(options);
    costs.push_back({block});
  }
  const Timings timings = time_in_turn(runs, rounds);
  for (std::size_t i = 0; i < costs.size(); ++i) {
    costs[i].cached = timings.ratio(2 * i + 2, 0);
    costs[i].direct = timings.ratio(2 * i + 3, 1);
  }
  return costs;
}

}  // namespace

Cost measure_cost(const Effort& effort) {
  Workload workload(effort.batch);
  const std::vector<Tower> towers = workload.towers();
  const Loss loss = workload.loss();
  const auto cached = [&](const StepOptions& options) {
    const StepResult result = cached_step(towers, loss, options);
    workload.clear_gradients();
    return result;
  };
  std::vector<std::function<void()>> runs{[&] {
    direct_step(towers, loss);
    workload.clear_gradients();
  }};
  Cost cost;
  for (std::int64_t chunk = 8; chunk <= effort.batch; chunk *= 2) {
    cost.by_chunk.push_back({chunk, 0});
    runs.push_back([&, chunk] { cached({{chunk}}); });
  }
  // From the least that chunks of 32 need to what it takes to keep them all.
  constexpr std::int64_t kChunk = 32;
  const std::int64_t chunks = (effort.batch + kChunk - 1) / kChunk;
  const std::size_t least = cached({{kChunk}}).peak_bytes;
  StepOptions all;
  all.cut = MemoryPlan{{kChunk, kChunk}, 2 * chunks};
  const std::size_t most = cached(all).peak_bytes;
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0, 1.5}) {
    const auto bytes = least + static_cast<std::size_t>(share * static_cast<double>(most - least));
    // 3 % is what a plan leaves free.
    const MemoryBudget budget{bytes + bytes / 32};
    const StepOptions options{.cut = plan_memory(towers, {.cut = budget})};
    const StepResult result = cached(options);
    cost.by_budget.push_back({share, budget.bytes, result.peak_bytes,
                              static_cast<double>(result.kept_chunks) / static_cast<double>(result.chunks), 0});
    runs.push_back([&, options] { cached(options); });
  }
  const Timings timings = time_in_turn(runs, effort.rounds);
  cost.direct_seconds = timings.seconds(0);
  std::size_t run = 1;
  for (ChunkCost& c : cost.by_chunk) c.ratio = timings.ratio(run++, 0);
  for (BudgetCost& c : cost.by_budget) c.ratio = timings.ratio(run++, 0);
  for (const ChunkCost& c : cost.by_chunk) {
    if (c.chunk == kChunk) cost.no_tape_kept = c.ratio;
  }
  cost.ample_budget = cost.by_budget.back().ratio;
  return cost;
}

Reproducible measure_reproducible(const Effort& effort) {
  Workload workload(effort.batch);
  Reproducible found;
  StepOptions options;
  options.reproducible_block = 8;
  for (std::int64_t chunk = 8; chunk <= effort.batch; chunk += chunk < 64 ? 8 : 64) {
    options.cut = {chunk};
    const Comparison difference = compare(workload.towers(), workload.loss(), options, workload.clip.parameters());
    found.bit_identical = found.bit_identical && difference.max_relative() == 0;
    found.chunks.push_back(chunk);
  }
  found.cost = reproducible_cost(workload, effort.rounds);
  Workload wider(effort.batch / 4, Workload::vit_tiny());
  found.cost_vit_tiny = reproducible_cost(wider, effort.rounds);
  return found;
}

}  // namespace gradcache_bench
