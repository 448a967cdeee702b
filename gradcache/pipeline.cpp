#include "tapecache/gradcache/pipeline.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tapecache/core/allocator.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/encoded_parts.h"
#include "tapecache/gradcache/gradient_reduction.h"

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
    sides.push_back({towers[t].name(), {std::make_shared<TowerRun>(towers[t], std::move(chunks[t]), options)}});
  }
  return sides;
}

Pipeline::Pipeline(const char* step, std::vector<Side> sides, PipelineOptions options, Ranks& ranks)
    : step_(step), sides_(std::move(sides)), options_(std::move(options)), ranks_(ranks) {
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
  ranks_.together(
      [&] {
        forward_chunks(keep);
        make_room();
      },
      [&] { return account_of_towers(); });
}

void Pipeline::begin_forwarded() {
  const NoRecording outside_tape;
  ranks_.together([&] { make_room(); }, [&] { return account_of_towers(); });
}

void Pipeline::forward_chunks(std::int64_t keep) {
  const std::vector<Place> order = places();
  prefetch(order, 0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    TowerRun& run = run_at(order[i]);
    const std::size_t count = run.chunks().parts.size();
    prefetch(order, i + 1);
    ForwardContext& context = forward_context();
    const Share& samples = share(order[i].side);
    // Random draws are those of the samples' places in the whole batch.
    const ScopedValue first(context.random.first_sample, context.random.first_sample + samples.first);
    const ScopedValue partial(context.partial_batch, context.partial_batch || !samples.whole());
    forward_chunk(order[i], static_cast<std::int64_t>(order.size() - i) <= keep && samples.own > 0);
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

std::vector<Tensor> Pipeline::own_representations(std::size_t side) const {
  const TowerRun& first = *sides_[side].runs.front();
  if (sides_[side].runs.size() == 1) return first.representations_on_device();
  std::vector<Tensor> outputs;
  for (std::size_t i = 0; i < first.representations().size(); ++i) {
    outputs.push_back(joined(step_, sides_[side], chunks_[side], i));
  }
  return outputs;
}

/// Each over the samples of this rank.
std::vector<AuxiliaryLoss> Pipeline::own_auxiliary(std::size_t side) const {
  const std::vector<std::shared_ptr<TowerRun>>& runs = sides_[side].runs;
  const std::span<const AuxiliaryLoss> first = runs.front()->auxiliary();
  if (runs.size() == 1) return {first.begin(), first.end()};
  std::vector<AuxiliaryLoss> all;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    check_auxiliary(sides_[side].name, fmt::format("sub-batch {}", r), runs[r]->auxiliary(), first);
  }
  for (std::size_t i = 0; i < first.size(); ++i) {
    const Tensor& like = first[i].values.value();
    Tensor values = Tensor::empty({chunks_[side].size()}, like.dtype(), like.device());
    for (std::size_t r = 0; r < runs.size(); ++r) {
      put_rows(values, chunks_[side], chunks_[side].parts[r], runs[r]->auxiliary()[i].values.value());
    }
    all.push_back({first[i].name, values, first[i].weight});
  }
  return all;
}

/// For what is gathered, before it is known whether all ranks have got so far.
void Pipeline::make_room() {
  if (!ranks_.several() && !options_.segments.any()) return;
  of_encoders_.clear();
  for (const Side& side : sides_) {
    for (const auto& run : side.runs) add_distinct(of_encoders_, run->parameters());
  }
  of_encoders_ = in_common_order(std::move(of_encoders_));
  while (ranks_.several()) {
    try {
      gathered_.clear();
      for (std::size_t s = 0; s < sides_.size(); ++s) {
        const auto over_all = [&](const Tensor& own) {
          return Tensor::empty(own.shape().with(0, share(s).total), own.dtype(), own.device());
        };
        Gathered side{own_representations(s), {}, own_auxiliary(s)};
        if (gathers()) {
          for (const Tensor& own : side.own) side.representations.push_back(over_all(own));
        } else {
          side.representations = std::exchange(side.own, {});
        }
        for (AuxiliaryLoss& loss : side.auxiliary) {
          side.own.push_back(loss.values.value());
          loss.values = over_all(loss.values.value());
        }
        gathered_.push_back(std::move(side));
      }
      return;
    } catch (const OutOfMemory&) {
      if (!options_.may_drop_tapes || !drop_a_kept_tape()) throw;
    }
  }
}

/// What every rank must have found alike.
Account Pipeline::account_of_towers() const {
  const auto row = [](const Tensor& rows) {
    return fmt::format("{} {}", name(rows.dtype()), to_string(rows.shape().without(0)));
  };
  std::string text;
  for (std::size_t s = 0; s < gathered_.size(); ++s) {
    const std::vector<std::string> names = names_of(sides_[s]);
    for (std::size_t i = 0; i < names.size(); ++i) {
      text += fmt::format("representations of '{}', {} a sample\n", names[i], row(gathered_[s].representations[i]));
    }
    for (const AuxiliaryLoss& loss : gathered_[s].auxiliary) {
      text += fmt::format("auxiliary loss '{}' of '{}', {}, of weight {}\n", loss.name, sides_[s].name,
                          name(loss.values.dtype()), loss.weight);
    }
  }
  for (const Parameter& p : of_encoders_) {
    text += fmt::format("parameter '{}' of an encoder, {} {}\n", p.name(), name(p.value().dtype()),
                        to_string(p.value().shape()));
  }
  return {text + fmt::format("{} random draws made", random_state().key.call)};
}

/// The one exchange of a step's forward.
void Pipeline::gather() {
  for (std::size_t s = 0; s < gathered_.size(); ++s) {
    Gathered& side = gathered_[s];
    std::size_t next = 0;
    if (gathers()) {
      for (Tensor& all : side.representations) ranks_.gather(side.own[next++], all, share(s));
    }
    for (AuxiliaryLoss& loss : side.auxiliary) {
      Tensor all = loss.values.value();
      ranks_.gather(side.own[next++], all, share(s));
    }
    side.own.clear();
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
      const Share& all = share(s);
      input.chunks = {.parts = {gathers() ? Chunk{0, all.total} : Chunk{all.first, all.first + all.own}}, .order = {}};
    }
    std::size_t count = 0;
    for (const auto& run : side.runs) {
      input.frozen = input.frozen && run->frozen();
      transaction.add(run->parameters());
      count = std::max(count, run->auxiliary().size());
      if (!ranks_.several()) add_auxiliary(s, run->auxiliary());
    }
    if (ranks_.several()) add_auxiliary(s, gathered_[s].auxiliary);
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
    inputs[s].representations = ranks_.several() ? gathered_[s].representations : own_representations(s);
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
  gather();
  const auto take = [&] { take_whole_loss(loss, transaction); };
  ranks_.together(
      [&] {
        if (options_.shared_loss) ranks_.or_fail(take);
        else take();
      },
      [&] {
        std::string text;
        for (const Parameter& p : in_common_order(transaction.parameters())) {
          text += fmt::format("parameter '{}' of an encoder or the loss, {} {}\n", p.name(), name(p.value().dtype()),
                              to_string(p.value().shape()));
        }
        return Account{text, result_.loss.item()};
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
      report(Phase::kLoss, "", 0, 1);
      if (result_.status != StepStatus::kDone) return;
      keep_own_rows();
      off_load(result_.representations);
      for (std::vector<Tensor>& caches : caches_) off_load(caches);
      buffers.keep();
      return;
    } catch (const OutOfMemory&) {
      if (!options_.may_drop_tapes) throw;
      transaction.clear();
      random_state() = random;
      if (!drop_a_kept_tape()) throw;
    }
  }
}

/// Of the caches: the other ranks have the rest.
void Pipeline::keep_own_rows() {
  if (!gathers()) return;
  for (std::size_t s = 0; s < sides_.size(); ++s) {
    for (Tensor& cache : caches_[s]) {
      if (cache.defined()) cache = cache.slice(share(s).first, share(s).first + share(s).own).clone();
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
  run_at(place).begin_backward(std::move(own), options_.loss.scale, share(place.side).total);
}

void Pipeline::backward(GradientTransaction& transaction) {
  const Stopwatch watch(result_.seconds.backward);
  const NoRecording outside_tape;
  // What the loss gave to parameters that encoders read as well is whole on every rank, and no sum over segments.
  std::vector<Tensor> of_loss_alone;
  if (options_.segments.any()) of_loss_alone = take_gradients(of_encoders_);
  if (!ranks_.several()) {
    backward_own();
  } else {
    std::vector<Parameter> of_loss = in_common_order(transaction.parameters());
    std::erase_if(of_loss, [&](const Parameter& p) {
      return std::find(of_encoders_.begin(), of_encoders_.end(), p) != of_encoders_.end();
    });
    GradientReduction reduction(of_encoders_, std::move(of_loss), options_.segments.any());
    ranks_.together([&] {
      if (ranks_.rank() != 0) take_gradients(of_encoders_);
      backward_own();
      reduction.prepare();
    });
    reduction.run(ranks_);
  }
  add_gradients(of_encoders_, std::move(of_loss_alone));
}

/// From the last chunk to the first, as a tape over the whole batch would run: the sums over samples keep that order,
/// and kept tapes go first.
void Pipeline::backward_own() {
  std::vector<Place> order = places();
  std::reverse(order.begin(), order.end());
  std::erase_if(order, [&](const Place& place) { return run_at(place).frozen() || share(place.side).own == 0; });
  count_kept();
  if (options_.segments.any()) backward_segments(std::move(order));
  else backward_chunks(order);
}

std::int64_t Pipeline::segment_of(const Place& place) const {
  const Share& samples = share(place.side);
  const Chunk& chunk = sides_[place.side].runs[place.run]->chunks().parts[place.chunk];
  return options_.segments.of(samples.total, samples.first + chunk.begin);
}

/// Segment by segment, of all towers, so that those that share parameters are added in the same order wherever their
/// samples are.
void Pipeline::backward_segments(std::vector<Place> order) {
  std::stable_sort(order.begin(), order.end(),
                   [&](const Place& a, const Place& b) { return segment_of(a) > segment_of(b); });
  GradientTree tree(of_encoders_);
  const auto finish = [&] {
    for (const Place& place : order) run_at(place).finish_backward();
  };
  try {
    for (const Place& place : order) {
      if (place.chunk == 0) begin_backward(place);
    }
    for (std::size_t i = 0; i < order.size(); ++i) {
      TowerRun& run = run_at(order[i]);
      const std::size_t count = run.chunks().parts.size(), chunk = order[i].chunk;
      run.backward(chunk);
      report(Phase::kBackward, sides_[order[i].side].name, count - 1 - chunk, count);
      if (i + 1 == order.size() || segment_of(order[i + 1]) != segment_of(order[i])) tree.end_segment();
    }
  } catch (...) {
    finish();
    throw;
  }
  finish();
  tree.finish();
}

void Pipeline::backward_chunks(const std::vector<Place>& order) {
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
  ranks_.together([&] { join_step(transaction, result_, options_.loss.deferred); });
  transaction.keep_joined();
  return std::move(result_);
}

void Pipeline::report(Phase phase, const std::string& side, std::size_t chunk, std::size_t chunks) const {
  if (!options_.observer) return;
  options_.observer({phase, side, static_cast<std::int64_t>(chunk), static_cast<std::int64_t>(chunks),
                     allocator(options_.device).stats().current,
                     std::chrono::duration<double>(std::chrono::steady_clock::now() - options_.begun).count()});
}

}  // namespace tapecache::gradcache::detail
