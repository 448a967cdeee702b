#include "tapecache/gradcache/cached.h"

#include <algorithm>

#include <fmt/format.h>

#include "tapecache/core/forward_context.h"
#include "tapecache/core/memory_scopes.h"
#include "tapecache/gradcache/cached_run.h"
#include "tapecache/gradcache/loss_pass.h"
#include "tapecache/gradcache/step_checks.h"

namespace tapecache::gradcache {

// Hidden as what it holds is.
struct [[gnu::visibility("hidden")]] CachedForward::State {
  Tower tower;
  StepOptions options;
  detail::TowerRun run;

  State(Tower t, StepOptions o) : tower(std::move(t)), options(std::move(o)), run(tower, cut_as_given(sizes()), options) {}

  std::vector<std::int64_t> sizes() const {
    if (!tower.own_chunks().empty()) return tower.own_chunks();
    return {tower.size()};
  }

  /// The step whose gradients come next: its samples and its scales, which auxiliary losses share.
  void belongs_to(std::int64_t samples, const StepOptions& step) {
    run.set_batch_size(samples);
    options.scale = step.scale;
    options.late_scale = step.late_scale;
  }
  void backward(std::vector<Tensor> gradients) {
    if (run.frozen()) return;
    const NoRecording outside_tape;
    const ScopedValue untouched(forward_context());
    run.set_cache(std::move(gradients));
    for (std::size_t c = run.chunks().parts.size(); c-- > 0;) run.backward(c);
    run.finish_backward();
  }
};

CachedForward::State& CachedForward::state() const {
  if (!state_) throw Error("cached: a sub-batch is used that holds no forward, such as one that was moved from");
  return *state_;
}

const std::vector<Tensor>& CachedForward::representations() const {
  return state().run.representations();
}

std::int64_t CachedForward::size() const { return state().tower.size(); }

CachedForward cached(Tower tower, const CachedOptions& options) {
  StepOptions step;
  step.check_recompute = options.check_recompute;
  step.autocast = options.autocast;
  step.offload = options.offload;
  detail::check_step("cached", std::span(&tower, 1), step);
  ForwardContext context = forward_context();
  context.partial_batch = true;  // a sub-batch is no batch
  if (options.after) {
    const CachedForward::State& before = options.after->state();
    context.random = before.run.context().random;
    context.random.first_sample += before.tower.size();
  }
  const auto state = std::make_shared<CachedForward::State>(std::move(tower), std::move(step));
  detail::TowerRun& run = state->run;
  {
    const ScopedValue in_force(forward_context(), std::move(context));
    UndoLog buffers;
    for (std::size_t c = 0; c < run.chunks().parts.size(); ++c) run.forward(c, false);
    run.finish_forward();
    if (options.after && options.after->state().run.calls() != run.calls()) {
      throw ValueError(fmt::format("cached: a sub-batch made {} random draws, but the one before it {}: together they cannot "
                                   "equal those of the whole batch", run.calls(), options.after->state().run.calls()));
    }
    buffers.keep();
  }
  // Sub-batches of one batch advance the stream once.
  if (!options.after) random_state().key.call += run.calls();
  return CachedForward(state);
}

void CachedForward::backward(std::span<const Tensor> gradients) const {
  State& state = this->state();
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
  state.belongs_to(size(), {});
  state.backward(std::vector<Tensor>(gradients.begin(), gradients.end()));
  transaction.commit();
}

namespace {

/// The sub-batches of a tower side by side, on the device of the encoder.
detail::LossInput joined(const CachedBatch& batch) {
  if (batch.chunks.empty()) throw ValueError(fmt::format("cached_backward: tower '{}' has no sub-batches", batch.name));
  detail::LossInput input{.tower = batch.name, .names = {}, .representations = {}, .frozen = true};
  std::vector<std::int64_t> sizes;
  std::int64_t rows = 0;
  for (const CachedForward& chunk : batch.chunks) {
    sizes.push_back(chunk.size());
    rows += chunk.size();
    input.frozen = input.frozen && chunk.state().run.frozen();
  }
  input.chunks = cut_as_given(sizes);
  const std::vector<Tensor>& first = batch.chunks.front().representations();
  for (std::size_t i = 0; i < first.size(); ++i) {
    const detail::TowerRun& run = batch.chunks.front().state().run;
    input.names.push_back(batch.name + run.names()[i].substr(run.tower().name().size()));
    Tensor all = Tensor::empty(first[i].shape().with(0, rows), first[i].dtype(), run.devices()[i]);
    for (std::size_t c = 0; c < batch.chunks.size(); ++c) {
      const std::vector<Tensor>& outputs = batch.chunks[c].representations();
      if (outputs.size() != first.size() || outputs[i].shape().without(0) != first[i].shape().without(0)) {
        throw ShapeError(fmt::format("cached_backward: tower '{}' has {} in sub-batch {}, but {} in its first",
                                     batch.name, describe(outputs.at(std::min(i, outputs.size() - 1))), c,
                                     describe(first[i])));
      }
      put_rows(all, input.chunks, input.chunks.parts[c], outputs[i]);
    }
    input.representations.push_back(std::move(all));
  }
  return input;
}

void check_batches(std::span<const CachedBatch> towers, const StepOptions& options) {
  if (towers.empty()) throw ValueError("cached_backward: no towers, expected at least one");
  std::vector<std::string> names;
  for (const CachedBatch& batch : towers) names.push_back(batch.name);
  detail::check_names("cached_backward", std::move(names));
  detail::check_scales("cached_backward", options);
}

void take_to_host(std::span<detail::LossInput> inputs, detail::LossPass& pass, StepResult& result) {
  for (detail::LossInput& input : inputs) input.representations.clear();
  for (Tensor& r : result.representations) r = r.to_async(Device::cpu());
  for (std::vector<Tensor>& caches : pass.caches) {
    for (Tensor& cache : caches) {
      if (cache.defined()) cache = cache.to_async(Device::cpu());
    }
  }
}

}  // namespace

StepResult cached_backward(std::span<const CachedBatch> towers, const Loss& loss, const StepOptions& options) {
  check_batches(towers, options);
  detail::check_has_loss("cached_backward", loss);
  const PeakMeter meter(options.device);
  const NoRecording outside_tape;
  GradientTransaction transaction;
  StepResult result;
  detail::StepReadings readings;
  std::vector<detail::LossInput> inputs;
  std::size_t first_auxiliary = 0;
  for (const CachedBatch& batch : towers) {
    inputs.push_back(joined(batch));
    std::size_t count = 0;
    for (const CachedForward& chunk : batch.chunks) {
      chunk.state().belongs_to(inputs.back().representations.front().size(0), options);
      transaction.add(chunk.state().run.parameters());
      const std::vector<detail::AuxiliarySum> auxiliary = chunk.state().run.auxiliary();
      for (std::size_t i = 0; i < auxiliary.size(); ++i) readings.add_auxiliary(first_auxiliary + i, auxiliary[i]);
      count = std::max(count, auxiliary.size());
    }
    first_auxiliary += count;
    for (const Tensor& r : inputs.back().representations) {
      result.representations.push_back(r);
      if (!options.deferred) readings.add_representations(r);
    }
    result.chunks += static_cast<std::int64_t>(batch.chunks.size());
    std::int64_t& largest = result.largest_chunks.emplace_back(0);
    for (const CachedForward& chunk : batch.chunks) largest = std::max(largest, chunk.size());
  }
  detail::LossPass pass = detail::take_loss("cached_backward", inputs, loss, options, transaction, readings, result);
  if (result.status != StepStatus::kDone) {
    result.peak_bytes = meter.peak();
    detail::commit_step(transaction, result, options);
    return result;
  }
  if (options.offload) take_to_host(inputs, pass, result);
  for (std::size_t t = towers.size(); t-- > 0;) {
    for (std::size_t c = towers[t].chunks.size(); c-- > 0;) {
      std::vector<Tensor> gradients;
      for (const Tensor& cache : pass.caches[t]) {
        gradients.push_back(cache.defined() ? take_rows(cache, inputs[t].chunks, inputs[t].chunks.parts[c]) : Tensor());
      }
      // Again, since a sub-batch may be part of two batches.
      towers[t].chunks[c].state().belongs_to(inputs[t].chunks.parts.back().end, options);
      towers[t].chunks[c].state().backward(std::move(gradients));
    }
  }
  result.peak_bytes = meter.peak();
  detail::commit_step(transaction, result, options);
  return result;
}

}  // namespace tapecache::gradcache
