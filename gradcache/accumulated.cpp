#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "tapecache/core/device.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/gradient_reduction.h"
#include "tapecache/gradcache/pipeline.h"
#include "tapecache/gradcache/ranks.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::gradcache {

namespace {

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

/// Adds the result of one group to that of the step. The status is that of the first group that was refused.
void add_group(StepResult& sum, const StepResult& group, std::size_t number) {
  sum.loss = sum.loss.item() + group.loss.item();
  sum.non_finite = sum.non_finite.item() + group.non_finite.item();
  sum.auxiliary.resize(group.auxiliary.size());
  for (std::size_t i = 0; i < group.auxiliary.size(); ++i) {
    const double mean = sum.auxiliary[i].mean + group.auxiliary[i].mean;
    sum.auxiliary[i] = group.auxiliary[i];
    sum.auxiliary[i].mean = mean;
  }
  if (sum.status == StepStatus::kDone && group.status != StepStatus::kDone) {
    sum.status = group.status;
    sum.message = fmt::format("in group {}: {}", number, group.message);
  }
  sum.chunks += group.chunks;
  sum.kept_chunks += group.kept_chunks;
  sum.seconds.forward += group.seconds.forward;
  sum.seconds.loss += group.seconds.loss;
  sum.seconds.backward += group.seconds.backward;
  sum.largest_chunks.resize(group.largest_chunks.size());
  for (std::size_t t = 0; t < group.largest_chunks.size(); ++t) {
    sum.largest_chunks[t] = std::max(sum.largest_chunks[t], group.largest_chunks[t]);
  }
}

/// Each tower's chunks, as many of each.
std::vector<Chunks> groups_of(std::span<const Tower> towers, const AccumulatedOptions& options) {
  std::vector<Chunks> chunks = cut_towers("accumulated_step", towers, {.chunk_sizes = options.chunk_sizes.sizes},
                                          options.reproducible_block, false);
  for (std::size_t i = 1; i < towers.size(); ++i) {
    if (chunks[i].parts.size() != chunks[0].parts.size()) {
      throw ValueError(fmt::format("accumulated_step: tower '{}' has {} chunks, tower '{}' {}, expected equal numbers",
                                   towers[i].name(), chunks[i].parts.size(), towers[0].name(), chunks[0].parts.size()));
    }
  }
  return chunks;
}

/// Group by group, what this rank's samples give.
StepResult take_groups(std::span<const Tower> towers, std::span<const Chunks> chunks, const Loss& loss,
                       const AccumulatedOptions& options, const std::vector<detail::Share>& shares,
                       GradientTransaction& transaction) {
  StepResult sum;
  detail::Ranks alone("accumulated_step", shares);
  const detail::ForwardOptions forward{
      .step = "accumulated_step", .autocast = options.autocast, .reproducible_block = options.reproducible_block};
  const std::uint32_t first_call = random_state().key.call;
  for (std::size_t c = 0; c < chunks[0].parts.size(); ++c) {
    random_state().key.call = first_call;
    std::vector<Chunks> group;
    group.reserve(chunks.size());
    for (const Chunks& tower : chunks) group.push_back({.parts = {tower.parts[c]}, .order = {}});
    const double weight = static_cast<double>(group[0].size()) / static_cast<double>(shares[0].total);
    const Loss weighted = [&](const Representations& representations) {
      const Variable value = loss(representations);
      detail::check_loss("accumulated_step", value);
      return ops::scale(value, weight);
    };
    detail::Pipeline pipeline("accumulated_step", detail::sides_of(towers, std::move(group), forward),
                              {.loss = {options.scale, true, false}, .device = options.device}, alone);
    pipeline.forward(kAll);
    const bool finite = pipeline.take_loss(weighted, transaction);
    if (finite && sum.status == StepStatus::kDone) pipeline.backward(transaction);
    add_group(sum, pipeline.result(), c);
  }
  return sum;
}

/// What all ranks must have found alike.
detail::Account account_of(const StepResult& result, std::vector<Parameter> parameters) {
  std::string text;
  for (const StepResult::Auxiliary& loss : result.auxiliary) {
    text += fmt::format("auxiliary loss '{}' of weight {}\n", loss.name, loss.weight);
  }
  for (const Parameter& p : parameters) {
    text += fmt::format("parameter '{}' of an encoder or the loss, {} {}\n", p.name(), name(p.value().dtype()),
                        to_string(p.value().shape()));
  }
  text += fmt::format("{} random draws made", random_state().key.call);
  return {text, 0, std::move(parameters)};
}

void add_results(detail::Ranks& ranks, StepResult& result) {
  std::vector<double> numbers{result.loss.item(), result.non_finite.item()};
  for (const StepResult::Auxiliary& loss : result.auxiliary) numbers.push_back(loss.mean);
  Tensor shared = Tensor::wrap(numbers.data(), {static_cast<std::int64_t>(numbers.size())});
  ranks.sum(shared);
  result.loss = numbers[0];
  result.non_finite = numbers[1];
  for (std::size_t i = 0; i < result.auxiliary.size(); ++i) result.auxiliary[i].mean = numbers[2 + i];
}

/// The loss's parameters have the gradient of this rank's groups, as the encoders' have.
void add_gradients_of_all(detail::Ranks& ranks, const std::vector<Parameter>& parameters,
                          const ReductionOptions& options) {
  detail::GradientReduction reduction(ranks, parameters, {false, options.bucket_bytes}, false);
  reduction.begin(parameters);
  ranks.together([&] {
    reduction.make_room();
    reduction.complete_all();
  });
  reduction.finish();
}

StepResult take_accumulated_step(std::span<const Tower> towers, const Loss& loss, const AccumulatedOptions& options) {
  const PeakMeter meter(options.device);
  detail::Ranks ranks("accumulated_step", options.communicator);
  std::vector<Chunks> chunks;
  ranks.open([&] {
    detail::check_step("accumulated_step", towers, options.reproducible_block, options.scale);
    detail::check_precision("accumulated_step", options.autocast);
    detail::check_has_loss("accumulated_step", loss);
    chunks = groups_of(towers, options);
    detail::StepStart start{detail::shares_of(towers)};
    if (ranks.several()) {
      start.options.add("scale", options.scale.item())
          .add("reproducible_block", options.reproducible_block)
          .add("autocast", options.autocast)
          .add("reduction.bucket_bytes", static_cast<std::int64_t>(options.reduction.bucket_bytes));
    }
    return start;
  });
  GradientTransaction transaction;
  StepResult sum;
  std::vector<Parameter> parameters;
  ranks.together([&] { sum = take_groups(towers, chunks, loss, options, ranks.shares(), transaction); },
                 [&] {
                   parameters = detail::in_common_order(transaction.parameters());
                   return account_of(sum, parameters);
                 });
  if (ranks.several()) {
    add_results(ranks, sum);
    ranks.share_status(sum);
    if (sum.status == StepStatus::kDone) add_gradients_of_all(ranks, parameters, options.reduction);
  }
  sum.peak_bytes = meter.peak();
  ranks.together([&] { detail::join_step(transaction, sum, false); });
  transaction.keep_joined();
  return sum;
}

}  // namespace

StepResult accumulated_step(std::span<const Tower> towers, const Loss& loss, const AccumulatedOptions& options) {
  return detail::of_group(options.communicator, [&] { return take_accumulated_step(towers, loss, options); });
}

}  // namespace tapecache::gradcache
