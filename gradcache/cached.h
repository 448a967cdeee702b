#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tapecache/gradcache/step.h"

namespace tapecache::gradcache {

/// A sub-batch that was forwarded without a tape, together with everything needed to forward it again. Cheap to copy.
/// Any number of them may wait for a backward; they share no state.
class CachedForward {
 public:
  /// The encoder's outputs, without history.
  const std::vector<Tensor>& representations() const;
  std::int64_t size() const;

  /// Forwards again on a tape with the same random draws, and runs backward from the given gradients (one for each
  /// output; an undefined one counts as 0) and the sub-batch's auxiliary losses. Adds to the parameters' gradients,
  /// then runs their hooks. Does not advance the random stream. Throws ValueError for a wrong number of gradients,
  /// ShapeError if one does not have its output's shape and type, and what `cached_step` throws; gradients are
  /// unchanged then.
  void backward(std::span<const Tensor> gradients) const;

  struct State;
  explicit CachedForward(std::shared_ptr<State> state) : state_(std::move(state)) {}
  /// Throws Error if there is none, as after a move.
  const std::shared_ptr<State>& state() const;

 private:
  std::shared_ptr<State> state_;
};

struct CachedOptions {
  /// The previous sub-batch of the same batch and encoder. Random draws continue after its samples, as if both had been
  /// encoded together.
  const CachedForward* after = nullptr;
  /// Of several processes, how many samples of the batch lower ranks have: random draws of a sub-batch that comes after
  /// none begin there.
  std::int64_t first_sample = 0;
  bool check_recompute = false;      ///< as in StepOptions
  DType autocast = DType::kFloat32;  ///< as in StepOptions
  /// Keep the representations in page-locked host memory until the loss needs them.
  bool offload = false;
};

/// Forwards a whole tower without a tape, as one sub-batch of a larger batch. Throws ValueError if the tower has no
/// samples, or makes another number of random draws than the previous sub-batch; random state and buffers are unchanged
/// then. After a successful forward their changes remain, even if `cached_backward` fails.
CachedForward cached(Tower tower, const CachedOptions& options = {});

/// The functional form of gradient caching, for data loaders that emit small batches, of which the large one is
/// composed: `cached(encode, chunk)` forwards without a tape and remembers how to repeat it.
template <class Encode, Splittable Input>
CachedForward cached(Encode encode, Input chunk, const CachedOptions& options = {}) {
  return cached(Tower("cached", std::move(chunk), std::move(encode)), options);
}

/// All sub-batches of one encoder, under a name that the loss and messages use.
struct CachedBatch {
  std::string name;
  std::vector<CachedForward> chunks;
};

/// Options of `cached_backward`, as in `StepOptions`. The others are options of each sub-batch.
struct CachedBackwardOptions {
  Number scale = 1;
  bool deferred = false;
  Device device = Device::cpu();
  bool allow_unused = false;
  /// Keep the cached gradients and the result's representations on the host during the second forward.
  bool offload = false;
  /// As in DirectOptions; each process has at least one sub-batch of each tower.
  distributed::Communicator* communicator = nullptr;
  bool shared_loss = false;         ///< as in DirectOptions
  ReductionOptions reduction = {};  ///< as in DirectOptions
};

/// Takes the loss over all sub-batches of all towers, runs its backward, and forwards every sub-batch again with its
/// share of the cache, as `cached_step` does and with the same guarantees.
StepResult cached_backward(std::span<const CachedBatch> towers, const Loss& loss,
                           const CachedBackwardOptions& options = {});

}  // namespace tapecache::gradcache
