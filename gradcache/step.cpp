#include "tapecache/gradcache/step.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "tapecache/core/captured_step.h"
#include "tapecache/core/device.h"
#include "tapecache/gradcache/pipeline.h"
#include "tapecache/gradcache/plan_shares.h"
#include "tapecache/gradcache/ranks.h"
#include "tapecache/gradcache/segments.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::gradcache {

namespace {

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

/// Turns a cut into a plan. A memory budget is no case of this: its plan has to be measured.
MemoryPlan plan_of(const Cut& cut) {
  if (const auto* sizes = std::get_if<ChunkSizes>(&cut)) return {.chunk_sizes = sizes->sizes};
  if (const auto* by_tokens = std::get_if<ChunkTokens>(&cut)) {
    if (by_tokens->tokens < 1) {
      throw ValueError(fmt::format("cached_step: chunks of {} tokens, expected at least 1", by_tokens->tokens));
    }
    return {.chunk_sizes = by_tokens->other_towers.sizes, .chunk_tokens = by_tokens->tokens};
  }
  const auto& plan = std::get<MemoryPlan>(cut);
  if (plan.kept_chunks < 0) {
    throw ValueError(fmt::format("cached_step: a memory plan keeps {} chunks, expected at least 0", plan.kept_chunks));
  }
  return plan;
}

/// Halves the chunks, keeping them multiples of `unit`. Returns false if no chunk could be made smaller.
bool halve_chunks(MemoryPlan& plan, std::span<const Tower> towers, std::span<const Chunks> chunks, std::int64_t unit) {
  bool smaller = false, by_tokens = false;
  std::vector<std::int64_t> sizes;
  for (std::size_t i = 0; i < towers.size(); ++i) {
    const std::int64_t largest = chunks[i].largest();
    const bool ordered = !chunks[i].order.empty();
    const bool given = !towers[i].own_chunks().empty();
    sizes.push_back(given || ordered ? std::max<std::int64_t>(1, largest) : std::max(unit, largest / 2 / unit * unit));
    smaller = smaller || sizes.back() < largest;
    by_tokens = by_tokens || (ordered && largest > 1);
  }
  if (by_tokens) plan.chunk_tokens = std::max<std::int64_t>(1, plan.chunk_tokens / 2);
  plan.chunk_sizes = std::move(sizes);
  return smaller || by_tokens;
}

/// The options that must be equal on all ranks.
detail::CommonOptions common(const DirectOptions& options) {
  detail::CommonOptions all;
  all.add("scale", options.scale.item()).add("reproducible_block", options.reproducible_block);
  all.add("autocast", options.autocast).add("reproducible_segments", options.reproducible_segments);
  all.add("shared_loss", options.shared_loss);
  all.add("reduction.bucket_bytes", static_cast<std::int64_t>(options.reduction.bucket_bytes));
  return all;
}

detail::CommonOptions common(const StepOptions& options) {
  detail::CommonOptions all = common(options.direct());
  all.add("allow_unused", options.allow_unused).add("retry_smaller_chunks", options.retry_smaller_chunks);
  return all;
}

/// One chunk for each tower: its whole batch.
std::vector<Chunks> whole(std::span<const Tower> towers) {
  std::vector<Chunks> chunks;
  for (const Tower& tower : towers) chunks.push_back(cut_as_given(std::vector{tower.size()}));
  return chunks;
}

StepResult take_cached_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  const auto begun = std::chrono::steady_clock::now();
  const bool has_budget = std::holds_alternative<MemoryBudget>(options.cut);
  const PeakMeter meter(options.device);
  MemoryPlan plan;
  detail::Ranks ranks("cached_step", options.communicator);
  ranks.open([&] {
    detail::check_step("cached_step", towers, options.reproducible_block, options.scale, ranks.several());
    detail::check_precision("cached_step", options.autocast);
    detail::check_has_loss("cached_step", loss);
    detail::check_not_deferred("cached_step", options.deferred, ranks.several());
    detail::check_segments("cached_step", options.reproducible_segments, options.shared_loss);
    if (has_budget) detail::check_budget("cached_step", std::get<MemoryBudget>(options.cut));
    if (has_budget && CapturedStep::is_capturing()) {
      throw ValueError(
          "cached_step: a step that is captured cannot measure what fits its memory budget; give a MemoryPlan");
    }
    if (!has_budget) plan = plan_of(options.cut);
    if (!ranks.several()) return detail::StepStart{.towers = detail::shares_of(towers), .plans = has_budget};
    if (!has_budget) cut_towers("cached_step", towers, plan, options.reproducible_block, options.offload);
    return detail::StepStart{detail::shares_of(towers), common(options), has_budget};
  });
  const detail::Segments segments{options.reproducible_segments};
  ranks.check_alike([&] { detail::check_shares("cached_step", segments, ranks); });
  if (ranks.anyone_plans()) {
    ranks.together([&] {
      if (has_budget) plan = detail::plan_shares(towers, ranks.shares(), options);
    });
  }
  const MemoryLimit within(plan.bytes, options.device);
  const detail::ForwardOptions forward{.step = "cached_step",
                                       .autocast = options.autocast,
                                       .reproducible_block = options.reproducible_block,
                                       .check_recompute = options.check_recompute,
                                       .offload = options.offload,
                                       .spare_memory = has_budget || std::holds_alternative<MemoryPlan>(options.cut)};
  for (std::int64_t retries = 0;; ++retries) {
    std::vector<Chunks> chunks = cut_towers("cached_step", towers, plan, options.reproducible_block, options.offload);
    if (segments.any()) {
      ranks.together([&] { detail::cut_in_segments("cached_step", segments, towers, ranks.shares(), chunks); });
    }
    GradientTransaction transaction;
    detail::Pipeline pipeline("cached_step", detail::sides_of(towers, chunks, forward),
                              {.loss = {options.scale, options.allow_unused, options.deferred},
                               .offload = options.offload,
                               .may_drop_tapes = true,
                               .device = options.device,
                               .observer = options.observer,
                               .segments = segments,
                               .shared_loss = options.shared_loss,
                               .reduction = options.reduction,
                               .begun = begun},
                              ranks);
    try {
      pipeline.forward(plan.kept_chunks);
      if (pipeline.take_loss(loss, transaction)) pipeline.backward(transaction);
    } catch (const OutOfMemory&) {
      if (!ranks.all_throw()) throw;
      transaction.roll_back();
      // All ranks begin again, whichever ran out of memory; each cuts its own samples as it can.
      bool smaller = false;
      if (plan.kept_chunks > 0) {
        plan.kept_chunks /= 2;  // more memory was needed than the plan expected
        smaller = true;
      } else if (options.retry_smaller_chunks || plan.bytes > 0) {
        smaller = halve_chunks(plan, towers, chunks, detail::chunk_unit(options.reproducible_block));
      }
      if (!ranks.any(smaller)) throw;
      continue;
    }
    pipeline.result().retries = retries;
    return pipeline.commit(transaction, meter.peak());
  }
}

StepResult take_direct_step(std::span<const Tower> towers, const Loss& loss, const DirectOptions& options) {
  const PeakMeter meter(options.device);
  detail::Ranks ranks("direct_step", options.communicator);
  ranks.open([&] {
    detail::check_step("direct_step", towers, options.reproducible_block, options.scale, ranks.several());
    detail::check_precision("direct_step", options.autocast);
    detail::check_has_loss("direct_step", loss);
    detail::check_not_deferred("direct_step", options.deferred, ranks.several());
    detail::check_segments("direct_step", options.reproducible_segments, options.shared_loss);
    return detail::StepStart{detail::shares_of(towers), ranks.several() ? common(options) : detail::CommonOptions()};
  });
  GradientTransaction transaction;
  const detail::ForwardOptions forward{
      .step = "direct_step", .autocast = options.autocast, .reproducible_block = options.reproducible_block};
  const detail::Segments segments{options.reproducible_segments};
  ranks.check_alike([&] { detail::check_shares("direct_step", segments, ranks); });
  std::vector<Chunks> chunks = whole(towers);
  if (segments.any()) {
    ranks.together([&] { detail::cut_in_segments("direct_step", segments, towers, ranks.shares(), chunks); });
  }
  detail::Pipeline pipeline("direct_step", detail::sides_of(towers, std::move(chunks), forward),
                            {.loss = {options.scale, true, options.deferred},
                             .device = options.device,
                             .segments = segments,
                             .shared_loss = options.shared_loss,
                             .reduction = options.reduction},
                            ranks);
  pipeline.forward(kAll);
  if (pipeline.take_loss(loss, transaction)) pipeline.backward(transaction);
  return pipeline.commit(transaction, meter.peak());
}

}  // namespace

StepResult cached_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options) {
  return detail::of_group(options.communicator, [&] { return take_cached_step(towers, loss, options); });
}

StepResult direct_step(std::span<const Tower> towers, const Loss& loss, const DirectOptions& options) {
  return detail::of_group(options.communicator, [&] { return take_direct_step(towers, loss, options); });
}

}  // namespace tapecache::gradcache
