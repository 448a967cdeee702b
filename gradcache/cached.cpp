#include "tapecache/gradcache/cached.h"

#include <fmt/format.h>

#include "tapecache/core/device.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/pipeline.h"

namespace tapecache::gradcache {

// Hidden as what it holds is.
struct [[gnu::visibility("hidden")]] CachedForward::State {
  Tower tower;
  detail::TowerRun run;

  State(Tower t, const detail::ForwardOptions& options)
      : tower(std::move(t)), run(tower, cut_as_given(sizes()), options) {}

  std::vector<std::int64_t> sizes() const {
    if (!tower.own_chunks().empty()) return tower.own_chunks();
    return {tower.size()};
  }
};

namespace {

std::shared_ptr<detail::TowerRun> run_of(const CachedForward& forward) {
  return {forward.state(), &forward.state()->run};
}

/// The sub-batches of a tower side by side.
detail::Side side_of(const CachedBatch& batch) {
  if (batch.chunks.empty()) throw ValueError(fmt::format("cached_backward: tower '{}' has no sub-batches", batch.name));
  detail::Side side{.name = batch.name, .runs = {}};
  for (const CachedForward& chunk : batch.chunks) side.runs.push_back(run_of(chunk));
  return side;
}

detail::TowerShare share_of(const CachedBatch& batch) {
  detail::TowerShare share{.name = batch.name, .samples = 0};
  for (const CachedForward& chunk : batch.chunks) share.samples += chunk.size();
  const detail::TowerRun& first = batch.chunks.front().state()->run;
  if (first.calls() > 0) share.first_sample = first.context().random.first_sample;
  return share;
}

StepResult take_backward(std::span<const CachedBatch> towers, const Loss& loss, const CachedBackwardOptions& options) {
  const PeakMeter meter(options.device);
  detail::Ranks ranks("cached_backward", options.communicator);
  std::vector<detail::Side> sides;
  ranks.open([&] {
    if (towers.empty()) throw ValueError("cached_backward: no towers, expected at least one");
    std::vector<std::string> names;
    for (const CachedBatch& batch : towers) names.push_back(batch.name);
    detail::check_names("cached_backward", std::move(names));
    detail::check_scale("cached_backward", options.scale);
    detail::check_has_loss("cached_backward", loss);
    detail::check_not_deferred("cached_backward", options.deferred, ranks.several());
    detail::StepStart start;
    for (const CachedBatch& batch : towers) {
      sides.push_back(side_of(batch));
      start.towers.push_back(share_of(batch));
    }
    if (ranks.several())
      start.options.add("scale", options.scale.item())
          .add("allow_unused", options.allow_unused)
          .add("shared_loss", options.shared_loss)
          .add("reduction.bucket_bytes", static_cast<std::int64_t>(options.reduction.bucket_bytes));
    return start;
  });
  GradientTransaction transaction;
  detail::Pipeline pipeline("cached_backward", std::move(sides),
                            {.loss = {options.scale, options.allow_unused, options.deferred},
                             .offload = options.offload,
                             .device = options.device,
                             .shared_loss = options.shared_loss,
                             .reduction = options.reduction},
                            ranks);
  pipeline.begin_forwarded();
  if (pipeline.take_loss(loss, transaction)) pipeline.backward(transaction);
  return pipeline.commit(transaction, meter.peak());
}

}  // namespace

const std::shared_ptr<CachedForward::State>& CachedForward::state() const {
  if (!state_) throw Error("cached: a sub-batch is used that holds no forward, such as one that was moved from");
  return state_;
}

const std::vector<Tensor>& CachedForward::representations() const { return state()->run.representations(); }

std::int64_t CachedForward::size() const { return state()->tower.size(); }

CachedForward cached(Tower tower, const CachedOptions& options) {
  detail::check_step("cached", std::span(&tower, 1), 0, 1);
  detail::check_precision("cached", options.autocast);
  ForwardContext context = forward_context();
  context.partial_batch = true;  // a sub-batch is no batch
  if (options.after) {
    const CachedForward::State& before = *options.after->state();
    context.random = before.run.context().random;
    context.random.first_sample += before.tower.size();
  } else {
    context.random.first_sample += options.first_sample;
  }
  const auto state = std::make_shared<CachedForward::State>(
      std::move(tower), detail::ForwardOptions{.step = "cached",
                                               .autocast = options.autocast,
                                               .check_recompute = options.check_recompute,
                                               .offload = options.offload});
  detail::TowerRun& run = state->run;
  {
    const ScopedValue in_force(forward_context(), std::move(context));
    UndoLog buffers;
    for (std::size_t c = 0; c < run.chunks().parts.size(); ++c) run.forward(c, false);
    run.finish_forward();
    if (options.after && options.after->state()->run.calls() != run.calls()) {
      throw ValueError(
          fmt::format("cached: a sub-batch made {} random draws, but the one before it {}: together they cannot "
                      "equal those of the whole batch",
                      run.calls(), options.after->state()->run.calls()));
    }
    buffers.keep();
  }
  // Sub-batches of one batch advance the stream once.
  if (!options.after) random_state().key.call += run.calls();
  return CachedForward(state);
}

void CachedForward::backward(std::span<const Tensor> gradients) const {
  const State& state = *this->state();
  const std::vector<Tensor>& outputs = state.run.representations();
  if (gradients.size() != outputs.size()) {
    throw ValueError(fmt::format("backward of '{}': {} gradients for {} outputs", state.tower.name(), gradients.size(),
                                 outputs.size()));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!gradients[i].defined()) continue;
    if (gradients[i].shape() != outputs[i].shape() || gradients[i].dtype() != outputs[i].dtype()) {
      throw ShapeError(fmt::format("backward of '{}': gradient {} is {}, but the output is {}", state.run.names()[i], i,
                                   describe(gradients[i]), describe(outputs[i])));
    }
  }
  GradientTransaction transaction;
  transaction.add(state.run.parameters());
  detail::Ranks alone("backward", nullptr);
  alone.open([&] { return detail::StepStart{detail::shares_of(std::span(&state.tower, 1))}; });
  detail::Pipeline pipeline("backward", {{state.tower.name(), {run_of(*this)}}}, {}, alone);
  pipeline.set_caches({std::vector<Tensor>(gradients.begin(), gradients.end())});
  pipeline.backward(transaction);
  transaction.join();
  transaction.keep_joined();
}

StepResult cached_backward(std::span<const CachedBatch> towers, const Loss& loss,
                           const CachedBackwardOptions& options) {
  return detail::of_group(options.communicator, [&] { return take_backward(towers, loss, options); });
}

}  // namespace tapecache::gradcache
