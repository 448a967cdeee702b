#include "tapecache/gradcache/cached_run.h"

#include <algorithm>

#include "tapecache/core/allocator.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/loss_pass.h"
#include "tapecache/gradcache/step_checks.h"

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

CachedRun::CachedRun(std::span<const Tower> towers, const Loss& loss, const StepOptions& options,
                     std::vector<Chunks> chunks, std::int64_t keep)
    : loss_(loss), options_(options), keep_(keep) {
  for (std::size_t i = 0; i < towers.size(); ++i) {
    result_.chunks += static_cast<std::int64_t>(chunks[i].parts.size());
    std::int64_t& largest = result_.largest_chunks.emplace_back(0);
    for (const Chunk& chunk : chunks[i].parts) largest = std::max(largest, chunk.size());
    towers_.emplace_back(towers[i], std::move(chunks[i]), options);
  }
}

StepResult CachedRun::run(GradientTransaction& transaction) {
  const NoRecording outside_tape;
  forward();
  if (fill_caches(transaction)) backward();
  return std::move(result_);
}

void CachedRun::forward() {
  const Stopwatch watch(result_.seconds.forward);
  std::vector<Place> order;
  for (std::size_t t = 0; t < towers_.size(); ++t) {
    for (std::size_t c = 0; c < towers_[t].chunks().parts.size(); ++c) order.push_back({t, c});
  }
  prefetch(order, 0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto [t, c] = order[i];
    TowerRun& tower = towers_[t];
    const std::size_t count = tower.chunks().parts.size();
    prefetch(order, i + 1);
    forward_chunk(t, c, static_cast<std::int64_t>(order.size() - i) <= keep_);
    report(Phase::kForward, tower.tower().name(), c, count);
    if (c + 1 == count) tower.finish_forward();
  }
}

/// Before a chunk is computed: a copy comes after the work that the device has been given before it, and its memory may be
/// that of the chunk before.
void CachedRun::prefetch(std::span<const Place> order, std::size_t next) {
  if (next < order.size()) towers_[order[next].tower].prefetch(order[next].chunk);
}

/// Under memory pressure what is not needed yet and tapes are given up before the step is.
void CachedRun::forward_chunk(std::size_t tower, std::size_t chunk, bool keep) {
  for (;;) {
    try {
      UndoLog buffers;
      towers_[tower].forward(chunk, keep);
      buffers.keep();
      return;
    } catch (const OutOfMemory&) {
      if (drop_prefetched()) continue;
      if (!keep && !drop_a_kept_tape()) throw;
      keep = false;
    }
  }
}

bool CachedRun::drop_prefetched() {
  bool dropped = false;
  for (TowerRun& tower : towers_) dropped = tower.drop_prefetched() || dropped;
  return dropped;
}

bool CachedRun::drop_a_kept_tape() {
  for (TowerRun& tower : towers_) {
    for (std::size_t c = 0; c < tower.chunks().parts.size(); ++c) {
      if (tower.drop(c)) return true;
    }
  }
  return false;
}

/// Brings those that were off-loaded back to where the encoders are.
void CachedRun::take_representations(std::span<LossInput> inputs) {
  result_.representations.clear();
  readings_.clear_representations();
  for (LossInput& input : inputs) input.representations.clear();
  for (std::size_t t = 0; t < towers_.size(); ++t) {
    inputs[t].representations = towers_[t].representations_there();
    for (const Tensor& r : towers_[t].representations()) result_.representations.push_back(r);
    if (options_.deferred) continue;
    for (const Tensor& r : inputs[t].representations) readings_.add_representations(r);
  }
}

/// False where something is not finite.
bool CachedRun::fill_caches(GradientTransaction& transaction) {
  const Stopwatch watch(result_.seconds.loss);
  std::vector<LossInput> inputs;
  std::size_t auxiliary = 0;
  for (const TowerRun& tower : towers_) {
    transaction.add(tower.parameters());
    inputs.push_back({tower.tower().name(), tower.names(), {}, tower.frozen(), tower.chunks()});
    for (AuxiliarySum& part : tower.auxiliary()) readings_.add_auxiliary(auxiliary++, std::move(part));
  }
  const RandomState random = random_state();
  for (;;) {
    try {
      UndoLog buffers;
      take_representations(inputs);
      LossPass pass = take_loss("cached_step", inputs, loss_, options_, transaction, readings_, result_);
      report(Phase::kLoss, "", 0, 1);
      if (result_.status != StepStatus::kDone) return false;
      for (std::size_t t = 0; t < towers_.size(); ++t) towers_[t].set_cache(std::move(pass.caches[t]));
      buffers.keep();
      return true;
    } catch (const OutOfMemory&) {
      transaction.clear();
      random_state() = random;
      if (!drop_a_kept_tape()) throw;
    }
  }
}

/// From the last chunk to the first, as a tape over the whole batch would run: the sums over samples keep that order,
/// and kept tapes go first.
void CachedRun::backward() {
  const Stopwatch watch(result_.seconds.backward);
  for (const TowerRun& tower : towers_) result_.kept_chunks += static_cast<std::int64_t>(tower.kept());
  std::vector<Place> order;
  for (std::size_t t = towers_.size(); t-- > 0;) {
    if (towers_[t].frozen()) continue;
    for (std::size_t c = towers_[t].chunks().parts.size(); c-- > 0;) order.push_back({t, c});
  }
  prefetch(order, 0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto [t, c] = order[i];
    TowerRun& tower = towers_[t];
    const std::size_t count = tower.chunks().parts.size();
    prefetch(order, i + 1);
    tower.backward(c);
    report(Phase::kBackward, tower.tower().name(), count - 1 - c, count);
    if (c == 0) tower.finish_backward();
  }
}

void CachedRun::report(Phase phase, const std::string& tower, std::size_t chunk, std::size_t chunks) const {
  if (!options_.observer) return;
  options_.observer({phase, tower, static_cast<std::int64_t>(chunk), static_cast<std::int64_t>(chunks),
                     allocator(options_.device).stats().current,
                     std::chrono::duration<double>(Clock::now() - begun_).count()});
}

}  // namespace tapecache::gradcache::detail
