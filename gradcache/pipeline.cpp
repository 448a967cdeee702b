#include "tapecache/gradcache/pipeline.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/allocator.h"
#include "tapecache/core/random.h"

namespace tapecache::gradcache::detail {

namespace {

/// Adds the time of a scope to a total.
class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total) {}
  ~Stopwatch() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& total_;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

Chunks chunks_of(const Side& side) {
  if (side.runs.size() == 1) return side.runs.front()->chunks();
  std::vector<std::int64_t> sizes;
  for (const auto& run : side.runs) sizes.push_back(run->chunks().size());
  return cut_as_given(sizes);
}

/// An output over all sub-batches of a side, where the encoder leaves it.
Tensor joined(const char* step, const Side& side, const Chunks& chunks, std::size_t output) {
  const TowerRun& first = *side.runs.front();
  const Tensor& like = first.representations()[output];
  Tensor all = Tensor::empty(like.shape().with(0, chunks.size()), like.dtype(), first.devices()[output]);
  for (std::size_t r = 0; r < side.runs.size(); ++r) {
    const std::vector<Tensor>& outputs = side.runs[r]->representations();
    if (outputs.size() != first.representations().size() ||
        outputs[output].shape().without(0) != like.shape().without(0)) {
      throw ShapeError(fmt::format("{}: tower '{}' has {} in sub-batch {}, but {} in its first", step, side.name,
                                   describe(outputs[std::min(output, outputs.size() - 1)]), r, describe(like)));
    }
    put_rows(all, chunks, chunks.parts[r], outputs[output]);
  }
  return all;
}

/// Under the side's name: a sub-batch's tower has another.
std::vector<std::string> names_of(const Side& side) {
  const TowerRun& first = *side.runs.front();
  std::vector<std::string> names;
  for (const std::string& name : first.names()) names.push_back(side.name + name.substr(first.tower().name().size()));
  return names;
}

}  // namespace

std::vector<Side> sides_of(std::span<const Tower> towers, std::vector<Chunks> chunks, const ForwardOptions& options) {
  std::vector<Side> sides;
  for (std::size_t t = 0; t < towers.size(); ++t) {
    sides.push_back(
        {towers[t].name(), {std::make_shared<TowerRun>(towers[t], std::move(chunks[t]), options)}, towers[t].size()});
  }
  return sides;
}

Pipeline::Pipeline(const char* step, std::vector<Side> sides, PipelineOptions options)
    : step_(step), sides_(std::move(sides)), options_(std::move(options)) {
  for (const Side& side : sides_) {
    chunks_.push_back(chunks_of(side));
    std::int64_t& largest = result_.largest_chunks.emplace_back(0);
    for (const auto& run : side.runs) {
      result_.chunks += static_cast<std::int64_t>(run->chunks().parts.size());
      largest = std::max(largest, run->chunks().largest());
    }
  }
}

std::vector<Pipeline::Place> Pipeline::places() const {
  std::vector<Place> order;
  for (std::size_t s = 0; s < sides_.size(); ++s) {
    for (std::size_t r = 0; r < sides_[s].runs.size(); ++r) {
      for (std::size_t c = 0; c < sides_[s].runs[r]->chunks().parts.size(); ++c) order.push_back({s, r, c});
    }
  }
  return order;
}

void Pipeline::forward(std::int64_t keep) {
  const Stopwatch watch(result_.seconds.forward);
  const NoRecording outside_tape;
  const std::vector<Place> order = places();
  prefetch(order, 0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    TowerRun& run = run_at(order[i]);
    const std::size_t count = run.chunks().parts.size();
    prefetch(order, i + 1);
    forward_chunk(order[i], static_cast<std::int64_t>(order.size() - i) <= keep);
    report(Phase::kForward, sides_[order[i].side].name, order[i].chunk, count);
    if (order[i].chunk + 1 == count) run.finish_forward();
  }
  count_kept();
}

/// Before a chunk is computed: a copy comes after the work that the device has been given before it, and its memory may
/// be that of the chunk before.
void Pipeline::prefetch(std::span<const Place> order, std::size_t next) {
  if (next < order.size()) run_at(order[next]).prefetch(order[next].chunk);
}

/// Under memory pressure what is not needed yet and tapes are given up before the step is.
void Pipeline::forward_chunk(const Place& place, bool keep) {
  for (;;) {
    try {
      UndoLog buffers;
      run_at(place).forward(place.chunk, keep);
      buffers.keep();
      return;
    } catch (const OutOfMemory&) {
      if (drop_prefetched()) continue;
      if (!options_.may_drop_tapes || (!keep && !drop_a_kept_tape())) throw;
      keep = false;
    }
  }
}

bool Pipeline::drop_prefetched() {
  bool dropped = false;
  for (const Place& place : places()) {
    if (place.chunk == 0) dropped = run_at(place).drop_prefetched() || dropped;
  }
  return dropped;
}

bool Pipeline::drop_a_kept_tape() {
  const std::vector<Place> order = places();
  return std::any_of(order.begin(), order.end(), [&](const Place& place) { return run_at(place).drop(place.chunk); });
}

/// But for the representations.
std::vector<LossInput> Pipeline::loss_inputs(GradientTransaction& transaction) {
  std::vector<LossInput> inputs;
  std::size_t first_auxiliary = 0;
  for (std::size_t s = 0; s < sides_.size(); ++s) {
    const Side& side = sides_[s];
    LossInput& input = inputs.emplace_back(LossInput{side.name, names_of(side), {}, true, chunks_[s]});
    std::size_t count = 0;
    for (const auto& run : side.runs) {
      input.frozen = input.frozen && run->frozen();
      transaction.add(run->parameters());
      std::vector<AuxiliarySum> auxiliary = run->auxiliary(side.samples);
      count = std::max(count, auxiliary.size());
      for (std::size_t i = 0; i < auxiliary.size(); ++i)
        readings_.add_auxiliary(first_auxiliary + i, std::move(auxiliary[i]));
    }
    first_auxiliary += count;
  }
  return inputs;
}

/// Brings those that were off-loaded back to where the encoders are.
void Pipeline::take_representations(std::span<LossInput> inputs) {
  result_.representations.clear();
  readings_.clear_representations();
  for (LossInput& input : inputs) input.representations.clear();
  for (std::size_t s = 0; s < sides_.size(); ++s) {
    const TowerRun& first = *sides_[s].runs.front();
    if (sides_[s].runs.size() == 1) {
      inputs[s].representations = first.representations_on_device();
      for (const Tensor& r : first.representations()) result_.representations.push_back(r);
    } else {
      for (std::size_t i = 0; i < first.representations().size(); ++i) {
        inputs[s].representations.push_back(joined(step_, sides_[s], chunks_[s], i));
        result_.representations.push_back(inputs[s].representations.back());
      }
    }
    if (options_.loss.deferred) continue;
    for (const Tensor& r : inputs[s].representations) readings_.add_representations(r);
  }
}

void Pipeline::off_load(std::vector<Tensor>& tensors) const {
  if (!options_.offload) return;
  for (Tensor& tensor : tensors) {
    if (tensor.defined()) tensor = tensor.to_async(Device::cpu());
  }
}

bool Pipeline::take_loss(const Loss& loss, GradientTransaction& transaction) {
  const Stopwatch watch(result_.seconds.loss);
  const NoRecording outside_tape;
  std::vector<LossInput> inputs = loss_inputs(transaction);
  const RandomState random = random_state();
  for (;;) {
    try {
      UndoLog buffers;
      take_representations(inputs);
      caches_ = detail::take_loss(step_, inputs, loss, options_.loss, transaction, readings_, result_).caches;
      report(Phase::kLoss, "", 0, 1);
      if (result_.status != StepStatus::kDone) return false;
      off_load(result_.representations);
      for (std::vector<Tensor>& caches : caches_) off_load(caches);
      buffers.keep();
      return true;
    } catch (const OutOfMemory&) {
      if (!options_.may_drop_tapes) throw;
      transaction.clear();
      random_state() = random;
      if (!drop_a_kept_tape()) throw;
    }
  }
}

void Pipeline::count_kept() {
  result_.kept_chunks = 0;
  for (const Place& place : places()) {
    if (place.chunk == 0) result_.kept_chunks += static_cast<std::int64_t>(run_at(place).kept());
  }
}

/// Hands a run its rows of the caches.
void Pipeline::begin_backward(const Place& place) {
  const Side& side = sides_[place.side];
  std::vector<Tensor>& caches = caches_[place.side];
  std::vector<Tensor> own;
  if (side.runs.size() == 1) {
    own = std::move(caches);
  } else {
    const Chunks& chunks = chunks_[place.side];
    for (const Tensor& cache : caches) {
      own.push_back(cache.defined() ? take_rows(cache, chunks, chunks.parts[place.run]) : Tensor());
    }
  }
  run_at(place).begin_backward(std::move(own), options_.loss.scale, side.samples);
}

/// From the last chunk to the first, as a tape over the whole batch would run: the sums over samples keep that order,
/// and kept tapes go first.
void Pipeline::backward() {
  const Stopwatch watch(result_.seconds.backward);
  const NoRecording outside_tape;
  std::vector<Place> order = places();
  std::reverse(order.begin(), order.end());
  std::erase_if(order, [&](const Place& place) { return run_at(place).frozen(); });
  count_kept();
  const auto same_run = [&](std::size_t a, std::size_t b) { return &run_at(order[a]) == &run_at(order[b]); };
  try {
    for (std::size_t i = 0; i < order.size(); ++i) {
      TowerRun& run = run_at(order[i]);
      const std::size_t count = run.chunks().parts.size(), chunk = order[i].chunk;
      // A run begins beside the last chunk of the one before, but for one sub-batch in two batches, which has to end
      // first.
      if (chunk + 1 == count && (i == 0 || same_run(i - 1, i))) begin_backward(order[i]);
      if (i == 0) prefetch(order, 0);
      if (i + 1 < order.size() && (chunk != 0 || !same_run(i, i + 1))) {
        if (chunk == 0) begin_backward(order[i + 1]);
        prefetch(order, i + 1);
      }
      run.backward(chunk);
      report(Phase::kBackward, sides_[order[i].side].name, count - 1 - chunk, count);
      if (chunk == 0) run.finish_backward();
    }
  } catch (...) {
    // Sub-batches may outlive the step.
    for (const Place& place : order) run_at(place).finish_backward();
    throw;
  }
}

StepResult Pipeline::commit(GradientTransaction& transaction, std::size_t peak_bytes) {
  result_.peak_bytes = peak_bytes;
  commit_step(transaction, result_, options_.loss.deferred);
  return std::move(result_);
}

void Pipeline::report(Phase phase, const std::string& side, std::size_t chunk, std::size_t chunks) const {
  if (!options_.observer) return;
  options_.observer({phase, side, static_cast<std::int64_t>(chunk), static_cast<std::int64_t>(chunks),
                     allocator(options_.device).stats().current,
                     std::chrono::duration<double>(std::chrono::steady_clock::now() - options_.begun).count()});
}

}  // namespace tapecache::gradcache::detail
