#include "tapecache/gradcache/grad_cache.h"

#include <algorithm>
#include <bit>
#include <variant>
#include <vector>

#include <fmt/format.h>

#include "tapecache/gradcache/plan_shares.h"
#include "tapecache/gradcache/ranks.h"
#include "tapecache/gradcache/step_checks.h"

namespace tapecache::gradcache {

namespace {

/// The sizes of chunks that a step came to, in whole blocks, where they are below those that it was given.
std::vector<std::int64_t> shrunk_sizes(const std::vector<std::int64_t>& given, const StepResult& result,
                                       std::int64_t unit) {
  std::vector<std::int64_t> sizes;
  for (std::size_t i = 0; i < result.largest_chunks.size() && !given.empty(); ++i) {
    const std::int64_t blocks = std::max<std::int64_t>(1, (result.largest_chunks[i] + unit - 1) / unit);
    sizes.push_back(std::min(given[given.size() == 1 ? 0 : i], blocks * unit));
  }
  return sizes;
}

/// What did not fit will not fit the next time either: the cut that a step came to, which halved it so many times.
void shrink(Cut& cut, const StepResult& result, std::int64_t halvings, std::int64_t unit) {
  const auto halved = [&](std::int64_t tokens) {
    return tokens == 0 ? 0 : std::max<std::int64_t>(1, tokens >> std::min<std::int64_t>(halvings, 62));
  };
  if (auto* const sizes = std::get_if<ChunkSizes>(&cut)) {
    sizes->sizes = shrunk_sizes(sizes->sizes, result, unit);
  } else if (auto* const tokens = std::get_if<ChunkTokens>(&cut)) {
    tokens->tokens = halved(tokens->tokens);
    tokens->other_towers.sizes = shrunk_sizes(tokens->other_towers.sizes, result, unit);
  } else if (auto* const plan = std::get_if<MemoryPlan>(&cut)) {
    // Before chunks are halved no tape is kept.
    const auto given_up = static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>(plan->kept_chunks)));
    halvings = std::max<std::int64_t>(0, halvings - given_up);
    plan->chunk_tokens = halved(plan->chunk_tokens);
    plan->kept_chunks = std::min(plan->kept_chunks, result.kept_chunks);
    for (std::size_t i = 0; i < plan->chunk_sizes.size() && i < result.largest_chunks.size(); ++i) {
      plan->chunk_sizes[i] = std::min(plan->chunk_sizes[i], result.largest_chunks[i]);
    }
  }
}

}  // namespace

GradCache::GradCache(Loss loss, StepOptions options) : GradCache(std::move(loss), std::move(options), SelfCheck()) {}

GradCache::GradCache(Loss loss, StepOptions options, SelfCheck self_check)
    : loss_(std::move(loss)), options_(std::move(options)), self_check_(self_check) {
  detail::check_has_loss("GradCache", loss_);
  if (self_check_.every < 0 || self_check_.samples < 1) {
    throw ValueError(
        fmt::format("grad cache: a self-check every {} steps of {} samples, expected every >= 0 and samples "
                    ">= 1",
                    self_check_.every, self_check_.samples));
  }
}

StepResult GradCache::step(std::span<const Tower> towers) {
  return detail::of_group(options_.communicator, [&] { return take_step(towers); });
}

StepResult GradCache::take_step(std::span<const Tower> towers) {
  checked_.reset();
  if (self_check_.every > 0 && steps_ % self_check_.every == 0) check(towers);
  StepOptions options = options_;
  const bool has_budget = std::holds_alternative<MemoryBudget>(options.cut);
  std::vector<std::int64_t> sizes;
  for (const Tower& tower : towers) sizes.push_back(tower.size());
  // Where one rank plans, all that have a budget plan anew, and the others wait for them.
  const bool stale = has_budget && (!plan_ || sizes != planned_sizes_);
  if (detail::Ranks("GradCache", options.communicator).any(stale)) {
    plan_ = detail::plan_in_group(towers, options);
    planned_sizes_ = std::move(sizes);
  }
  if (has_budget) options.cut = *plan_;
  StepResult result = cached_step(towers, loss_, options);
  ++steps_;
  if (result.status != StepStatus::kDone && result.status != StepStatus::kDeferred) ++skipped_;
  if (result.retries > 0) {
    shrink(options.cut, result, result.retries, detail::chunk_unit(options.reproducible_block));
    if (plan_) plan_ = std::get<MemoryPlan>(options.cut);
    else options_.cut = options.cut;
  }
  return result;
}

void GradCache::check(std::span<const Tower> towers) {
  detail::Ranks ranks("GradCache", options_.communicator);
  std::vector<Tower> parts;
  StepOptions options = options_;
  ranks.together([&] {
    detail::check_step("GradCache", towers, options_.reproducible_block, options_.scale, ranks.several());
    detail::check_precision("GradCache", options_.autocast);
    const std::int64_t samples = std::min(self_check_.samples, towers.front().size());
    for (const Tower& tower : towers) {
      if (!tower.own_chunks().empty()) {
        throw ValueError(
            fmt::format("GradCache: the self-check takes the first samples of each tower, but tower '{}' is made of "
                        "chunks, which cannot be cut; leave SelfCheck::every at 0",
                        tower.name()));
      }
      if (tower.size() == 0 || samples == 0) {
        parts.push_back(tower);
        continue;
      }
      parts.push_back(tower.first(std::max<std::int64_t>(1, tower.size() * samples / towers.front().size())));
    }
    options.observer = nullptr;
    const std::int64_t unit = detail::chunk_unit(options.reproducible_block);
    options.cut = ChunkSizes{std::max(unit, samples / 4 / unit * unit)};
  });
  checked_ = compare(parts, loss_, options);
}

}  // namespace tapecache::gradcache
