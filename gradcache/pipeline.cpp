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

}  // namespace

Pipeline::Pipeline(const char* step, std::vector<Side> sides, PipelineOptions options, Ranks& ranks)
    : step_(step),
      sides_(std::move(sides)),
      options_(std::move(options)),
      ranks_(ranks),
      gathering_(step, ranks, options_.shared_loss) {
  for (const Side& side : sides_) {
    chunks_.push_back(chunks_of(side));
    std::int64_t& largest = result_.largest_chunks.emplace_back(0);
    for (const auto& run : side.runs) {
      result_.chunks += static_cast<std::int64_t>(run->chunks().parts.size());
      largest = std::max(largest, run->chunks().largest());
    }
  }
}

void Pipeline::forward(std::int64_t keep) {
  const Stopwatch watch(result_.seconds.forward);
  const NoRecording outside_tape;
  ranks_.together(
      [&] {
        forward_chunks(keep);
        make_room();
      },
      [&] { return gathering_.account(sides_, of_encoders_); });
}

void Pipeline::begin_forwarded() {
  const NoRecording outside_tape;
  ranks_.together([&] { make_room(); }, [&] { return gathering_.account(sides_, of_encoders_); });
}

void Pipeline::forward_chunks(std::int64_t keep) {
  const std::vector<Place> order = places_of(sides_);
  prefetch(order.front());
  for (std::size_t i = 0; i < order.size(); ++i) {
    TowerRun& run = run_at(order[i]);
    const std::size_t count = run.chunks().parts.size();
    if (i + 1 < order.size()) prefetch(order[i + 1]);
    ForwardContext& context = forward_context();
    const Share& samples = share(order[i].side);
    // Random draws are those of the samples' places in the whole batch.
    const ScopedValue first(context.random.first_sample, context.random.first_sample + samples.first);
    const ScopedValue partial(context.partial_batch, context.partial_batch || !samples.whole());
    forward_chunk(order[i], static_cast<std::int64_t>(order.size() - i) <= keep && samples.own > 0);
    report(Progress::Phase::kForward, sides_[order[i].side].name, order[i].chunk, count);
    if (order[i].chunk + 1 == count) run.finish_forward();
  }
  count_kept();
}

/// Before a chunk is computed: a copy comes after the work that the device has been given before it, and its memory may
/// be that of the chunk before.
void Pipeline::prefetch(const Place& place) { run_at(place).prefetch(place.chunk); }

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
  for (const Place& place : places_of(sides_)) {
    if (place.chunk == 0) dropped = run_at(place).drop_prefetched() || dropped;
  }
  return dropped;
}

bool Pipeline::drop_a_kept_tape() {
  const std::vector<Place> order = places_of(sides_);
  return std::any_of(order.begin(), order.end(), [&](const Place& place) { return run_at(place).drop(place.chunk); });
}

/// For what ranks exchange, before it is known whether all have got so far.
void Pipeline::make_room() {
  if (!ranks_.several() && !options_.segments.any()) return;
  of_encoders_.clear();
  for (const Side& side : sides_) add_distinct(of_encoders_, parameters_of(side));
  of_encoders_ = in_common_order(std::move(of_encoders_));
  while (ranks_.several()) {
    try {
      gathering_.make_room(sides_);
      return;
    } catch (const OutOfMemory&) {
      if (!options_.may_drop_tapes || !drop_a_kept_tape()) throw;
    }
  }
}

/// But for the representations.
std::vector<LossInput> Pipeline::loss_inputs(GradientTransaction& transaction) {
  std::vector<LossInput> inputs;
  std::size_t first_auxiliary = 0;
  const auto add_auxiliary = [&](std::size_t side, std::span<const AuxiliaryLoss> losses) {
    for (std::size_t i = 0; i < losses.size(); ++i) {
      readings_.add_auxiliary(first_auxiliary + i, {losses[i].name, sum_of_elements(losses[i].values.value()),
                                                    share(side).total, losses[i].weight});
    }
  };
  for (std::size_t s = 0; s < sides_.size(); ++s) {
    const Side& side = sides_[s];
    LossInput& input = inputs.emplace_back(LossInput{side.name, names_of(side), {}, true, chunks_[s]});
    if (ranks_.several()) {
      // Where a sample was forwarded is for messages, and known of this rank's alone.
      input.chunks = {.parts = {gathering_.samples(s)}, .order = {}};
    }
    std::size_t count = 0;
    for (const auto& run : side.runs) {
      input.frozen = input.frozen && run->frozen();
      transaction.add(run->parameters());
      count = std::max(count, run->auxiliary().size());
      if (!ranks_.several()) add_auxiliary(s, run->auxiliary());
    }
    if (ranks_.several()) add_auxiliary(s, gathering_.auxiliary(s));
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
    inputs[s].representations = ranks_.several() ? gathering_.representations(s) : representations_of(step_, sides_[s]);
    // Off-loaded ones of a side's only run stay where they are.
    const bool as_kept = !ranks_.several() && sides_[s].runs.size() == 1;
    const std::vector<Tensor>& kept = as_kept ? sides_[s].runs.front()->representations() : inputs[s].representations;
    result_.representations.insert(result_.representations.end(), kept.begin(), kept.end());
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
  if (ranks_.several()) gathering_.exchange();
  const auto take = [&] { take_whole_loss(loss, transaction); };
  ranks_.together(
      [&] {
        if (options_.shared_loss) ranks_.or_fail(take);
        else take();
      },
      [&] {
        std::string text;
        std::vector<Parameter> parameters = in_common_order(transaction.parameters());
        for (const Parameter& p : parameters) {
          text += fmt::format("parameter '{}' of an encoder or the loss, {} {}\n", p.name(), name(p.value().dtype()),
                              to_string(p.value().shape()));
        }
        return Account{text, result_.loss.item(), std::move(parameters)};
      });
  ranks_.share_status(result_);
  return result_.status == StepStatus::kDone;
}

void Pipeline::take_whole_loss(const Loss& loss, GradientTransaction& transaction) {
  std::vector<LossInput> inputs = loss_inputs(transaction);
  const RandomState random = random_state();
  for (;;) {
    try {
      UndoLog buffers;
      take_representations(inputs);
      caches_ = detail::take_loss(step_, inputs, loss, options_.loss, transaction, readings_, result_).caches;
      report(Progress::Phase::kLoss, "", 0, 1);
      if (result_.status != StepStatus::kDone) return;
      for (std::size_t s = 0; s < caches_.size() && ranks_.several(); ++s) gathering_.keep_own_rows(s, caches_[s]);
      off_load(result_.representations);
      for (std::vector<Tensor>& caches : caches_) off_load(caches);
      buffers.keep();
      return;
    } catch (const OutOfMemory&) {
      // A loss that ranks take together cannot be taken again by one.
      if (!options_.may_drop_tapes || (options_.shared_loss && ranks_.several())) throw;
      transaction.clear();
      random_state() = random;
      if (!drop_a_kept_tape()) throw;
    }
  }
}

void Pipeline::count_kept() {
  result_.kept_chunks = 0;
  for (const Place& place : places_of(sides_)) {
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
  run_at(place).begin_backward(std::move(own), options_.loss.scale, share(place.side).total);
}

void Pipeline::backward(GradientTransaction& transaction) {
  const Stopwatch watch(result_.seconds.backward);
  const NoRecording outside_tape;
  // What the loss gave to parameters that encoders read as well is whole on every rank, and no sum over segments.
  std::vector<Tensor> of_loss_alone;
  if (options_.segments.any()) of_loss_alone = take_gradients(of_encoders_);
  if (ranks_.several()) backward_of_all(transaction);
  else backward_own(backward_order(sides_, ranks_.shares(), options_.segments, GroupOrder::kBatch), {});
  add_gradients(of_encoders_, std::move(of_loss_alone));
}

void Pipeline::backward_of_all(GradientTransaction& transaction) {
  // A plan counts on tapes that it keeps being gone before anything is recomputed.
  const bool batch_order = !options_.reduction.overlap || (options_.may_drop_tapes && result_.kept_chunks > 0);
  const std::vector<BackwardGroup> order = backward_order(sides_, ranks_.shares(), options_.segments,
                                                          batch_order ? GroupOrder::kBatch : GroupOrder::kLargestFirst);
  std::vector<Parameter> of_loss = in_common_order(transaction.parameters());
  std::erase_if(of_loss, [&](const Parameter& p) {
    return std::find(of_encoders_.begin(), of_encoders_.end(), p) != of_encoders_.end();
  });
  GradientsOfLoss whole(std::move(of_loss));
  GradientReduction reduction(ranks_, of_encoders_, options_.reduction, options_.segments.any());
  reduction.begin(completion_order(sides_, order));
  std::exception_ptr failed;
  try {
    if (ranks_.rank() != 0) take_gradients(of_encoders_);
    whole.make_room();
    reduction.make_room();
    std::vector<Parameter> elsewhere = of_encoders_;  // only other ranks add to these
    for (const BackwardGroup& group : order) {
      for (const BackwardStep& step : group.steps) {
        std::erase_if(elsewhere, [&](const Parameter& p) { return std::ranges::count(step.last, p) > 0; });
      }
    }
    for (const Parameter& p : elsewhere) reduction.complete(p);
    backward_own(order, [&](const Parameter& p) { reduction.complete(p); });
  } catch (...) {
    failed = std::current_exception();
    reduction.give_up();
  }
  try {
    reduction.finish();
  } catch (const distributed::CommunicationError&) {
    if (failed) std::rethrow_exception(failed);
    throw;
  }
  ranks_.together([&] {
    if (failed) std::rethrow_exception(failed);
  });
  whole.take(ranks_);
}

void Pipeline::backward_own(std::span<const BackwardGroup> order, const GradientWatch::Complete& complete) {
  count_kept();
  try {
    if (options_.segments.any()) {
      for (const BackwardGroup& group : order) backward_segments(group, complete);
    } else {
      std::vector<BackwardStep> steps;
      for (const BackwardGroup& group : order) steps.insert(steps.end(), group.steps.begin(), group.steps.end());
      backward_chunks(steps, complete);
    }
  } catch (...) {
    // Sub-batches may outlive the step.
    for (const Place& place : places_of(sides_)) run_at(place).finish_backward();
    throw;
  }
}

void Pipeline::backward_chunk(const BackwardStep& step, const GradientWatch::Complete& complete) {
  std::vector<Parameter> left = step.last;
  const GradientWatch::Complete tell = [&](const Parameter& p) {
    if (std::erase(left, p) > 0) complete(p);
  };
  TowerRun& run = run_at(step.place);
  const std::size_t count = run.chunks().parts.size(), chunk = step.place.chunk;
  run.backward(chunk, complete && !left.empty() ? tell : GradientWatch::Complete());
  if (complete) std::ranges::for_each(left, complete);
  report(Progress::Phase::kBackward, sides_[step.place.side].name, count - 1 - chunk, count);
}

/// Segment by segment, of all towers of the group, so that those that share parameters are added in the same order
/// wherever their samples are.
void Pipeline::backward_segments(const BackwardGroup& group, const GradientWatch::Complete& complete) {
  std::vector<Parameter> parameters;
  for (const std::size_t side : group.sides) add_distinct(parameters, parameters_of(sides_[side]));
  GradientTree tree(std::move(parameters));
  const GradientWatch::Complete finish = [&](const Parameter& p) {
    tree.finish(p);
    if (complete) complete(p);
  };
  for (const BackwardStep& step : group.steps) {
    if (step.place.chunk == 0) begin_backward(step.place);
  }
  for (std::size_t i = 0; i < group.steps.size(); ++i) {
    backward_chunk(group.steps[i], finish);
    if (i + 1 < group.steps.size() && group.steps[i + 1].segment != group.steps[i].segment) tree.end_segment();
  }
  for (const BackwardStep& step : group.steps) run_at(step.place).finish_backward();
}

void Pipeline::backward_chunks(std::span<const BackwardStep> order, const GradientWatch::Complete& complete) {
  const auto same_run = [&](std::size_t a, std::size_t b) {
    return &run_at(order[a].place) == &run_at(order[b].place);
  };
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Place& place = order[i].place;
    TowerRun& run = run_at(place);
    const std::size_t count = run.chunks().parts.size(), chunk = place.chunk;
    // A run begins beside the last chunk of the one before, but for one sub-batch in two batches, which has to end
    // first.
    if (chunk + 1 == count && (i == 0 || same_run(i - 1, i))) begin_backward(place);
    if (i == 0) prefetch(place);
    if (i + 1 < order.size() && (chunk != 0 || !same_run(i, i + 1))) {
      if (chunk == 0) begin_backward(order[i + 1].place);
      prefetch(order[i + 1].place);
    }
    backward_chunk(order[i], complete);
    if (chunk == 0) run.finish_backward();
  }
}

StepResult Pipeline::commit(GradientTransaction& transaction, std::size_t peak_bytes) {
  result_.peak_bytes = peak_bytes;
  ranks_.together([&] { join_step(transaction, result_, options_.loss.deferred); });
  transaction.keep_joined();
  return std::move(result_);
}

void Pipeline::report(Progress::Phase phase, const std::string& side, std::size_t chunk, std::size_t chunks) const {
  if (!options_.observer) return;
  options_.observer({phase, side, static_cast<std::int64_t>(chunk), static_cast<std::int64_t>(chunks),
                     allocator(options_.device).stats().current,
                     std::chrono::duration<double>(std::chrono::steady_clock::now() - options_.begun).count()});
}

}  // namespace tapecache::gradcache::detail
