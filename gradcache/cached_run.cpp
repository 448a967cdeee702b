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
  if (fill_caches(transaction)) {
    backward();
  } else {
    transaction.keep_random_state();
  }
  return std::move(result_);
}

void CachedRun::forward() {
  const Stopwatch watch(result_.seconds.forward);
  std::int64_t place = result_.chunks;
  for (std::size_t t = 0; t < towers_.size(); ++t) {
    TowerRun& tower = towers_[t];
    const std::size_t count = tower.chunks().parts.size();
    for (std::size_t c = 0; c < count; ++c, --place) {
      forward_chunk(t, c, place <= keep_);
      report(Phase::kForward, tower.tower().name(), c, count);
    }
    tower.finish_forward();
    for (const Tensor& representations : tower.representations()) {
      result_.representations.push_back(representations);
      result_.representation_norms.push_back(rms_norm(representations));
    }
  }
}

/// Under memory pressure tapes are given up before the step is.
void CachedRun::forward_chunk(std::size_t tower, std::size_t chunk, bool keep) {
  for (;;) {
    try {
      towers_[tower].forward(chunk, keep);
      return;
    } catch (const OutOfMemory&) {
      if (!keep && !drop_a_kept_tape()) throw;
      keep = false;
    }
  }
}

bool CachedRun::drop_a_kept_tape() {
  for (TowerRun& tower : towers_) {
    for (std::size_t c = 0; c < tower.chunks().parts.size(); ++c) {
      if (tower.drop(c)) return true;
    }
  }
  return false;
}

/// False where something is not finite.
bool CachedRun::fill_caches(GradientTransaction& transaction) {
  const Stopwatch watch(result_.seconds.loss);
  std::vector<LossInput> inputs;
  double auxiliary = 0;
  for (const TowerRun& tower : towers_) {
    transaction.add(tower.parameters());
    inputs.push_back({tower.tower().name(), tower.names(), tower.representations(), tower.frozen(), tower.chunks()});
    for (const AuxiliaryResult& part : tower.auxiliary()) {
      auxiliary += part.weight * part.mean;
      result_.auxiliary.push_back(part);
    }
  }
  const RandomState random = random_state();
  for (;;) {
    try {
      result_.loss = auxiliary;
      LossPass pass = take_loss("cached_step", inputs, loss_, options_, transaction, result_);
      result_.loss += pass.loss;
      report(Phase::kLoss, "", 0, 1);
      if (result_.status != StepStatus::kDone) return false;
      for (std::size_t t = 0; t < towers_.size(); ++t) towers_[t].cache = std::move(pass.caches[t]);
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
  for (std::size_t t = towers_.size(); t-- > 0;) {
    TowerRun& tower = towers_[t];
    const std::size_t count = tower.chunks().parts.size();
    if (tower.frozen()) continue;
    for (std::size_t c = count; c-- > 0;) {
      tower.backward(c);
      report(Phase::kBackward, tower.tower().name(), count - 1 - c, count);
    }
    tower.cache.clear();
  }
}

void CachedRun::report(Phase phase, const std::string& tower, std::size_t chunk, std::size_t chunks) const {
  if (!options_.observer) return;
  options_.observer({phase, tower, static_cast<std::int64_t>(chunk), static_cast<std::int64_t>(chunks),
                     allocator(options_.device).stats().current,
                     std::chrono::duration<double>(Clock::now() - begun_).count()});
}

}  // namespace tapecache::gradcache::detail
