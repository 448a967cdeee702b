#include "step_settings.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tapecache/core/error.h"

namespace tapecache::program {

namespace {

constexpr std::int64_t kDefaultChunkTokens = 4096;
constexpr std::int64_t kDefaultSamples = 32;  // of a chunk of images, or of a reproducible one
constexpr std::int64_t kSegments = 8;         // of a reproducible batch

gradcache::Cut cut_of(const TrainOptions& options) {
  if (options.memory) return gradcache::MemoryBudget{*options.memory, options.chunk_tokens.value_or(0)};
  if (options.chunk) return {*options.chunk};
  if (options.reproducible) return {kDefaultSamples};
  return gradcache::ChunkTokens{options.chunk_tokens.value_or(kDefaultChunkTokens), {kDefaultSamples}};
}

}  // namespace

void check_processes(const TrainOptions& options, int processes) {
  check_batch(options, options.batch, processes);
  if (!options.reproducible) return;
  if (kSegments % processes != 0) {
    throw ValueError(
        fmt::format("--reproducible is for 1, 2, 4 or 8 processes, which share {} segments of a batch evenly, found {}",
                    kSegments, processes));
  }
  if (options.chunk_tokens) {
    throw ValueError(
        "--reproducible takes no --chunk-tokens, whose chunks depend on the number of processes; expected --chunk or "
        "--memory");
  }
}

void check_batch(const TrainOptions& options, std::int64_t batch, int processes) {
  const std::int64_t least = options.reproducible ? kSegments : processes;
  if (batch >= least) return;
  throw ValueError(fmt::format("the batch is {} pairs, expected at least one for each of {} {}", batch, least,
                               options.reproducible ? "segments that --reproducible has" : "processes"));
}

gradcache::StepOptions step_options(const TrainOptions& options, const ProcessGroup& group) {
  gradcache::StepOptions step;
  step.autocast = options.model.autocast();
  step.cut = cut_of(options);
  step.communicator = group.communicator();
  if (options.reproducible) {
    step.reproducible_segments = kSegments;
    // The chunks of a budget depend on the number of processes.
    if (options.memory) step.reproducible_block = kSegments;
  }
  return step;
}

gradcache::MemoryPlan agreed(gradcache::MemoryPlan plan, const gradcache::StepOptions& step,
                             const ProcessGroup& group) {
  if (group.size() == 1) return plan;
  std::vector<std::int64_t> numbers = plan.chunk_sizes;
  numbers.push_back(plan.kept_chunks);
  numbers.push_back(plan.chunk_tokens);
  group.take_smallest(numbers);
  plan.chunk_tokens = numbers.back();
  numbers.pop_back();
  plan.kept_chunks = numbers.back();
  numbers.pop_back();
  // One process's may be all that it has, and no whole blocks.
  const std::int64_t block = step.reproducible_block;
  for (std::int64_t& size : numbers) {
    if (block > 0 && size > 0) size = std::max(block, size / block * block);
  }
  plan.chunk_sizes = std::move(numbers);
  return plan;
}

std::string text_of(const gradcache::MemoryPlan& plan) {
  return nlohmann::ordered_json{{"chunk_sizes", plan.chunk_sizes},
                                {"kept_chunks", plan.kept_chunks},
                                {"chunk_tokens", plan.chunk_tokens},
                                {"bytes", plan.bytes}}
      .dump();
}

gradcache::MemoryPlan plan_of(const nlohmann::ordered_json& json) {
  return {json.at("chunk_sizes").get<std::vector<std::int64_t>>(), json.at("kept_chunks").get<std::int64_t>(),
          json.at("chunk_tokens").get<std::int64_t>(), json.at("bytes").get<std::size_t>()};
}

}  // namespace tapecache::program
