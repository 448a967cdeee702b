#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tapecache/gradcache/step.h"

namespace tapecache::gradcache {

/// A sub-batch that has been forwarded without a tape, with what it takes to forward it again. Cheap to copy; several
/// may wait for one backward without sharing anything.
class CachedForward {
 public:
  /// The outputs of the encoder, without history.
  const std::vector<Tensor>& representations() const;
  std::int64_t size() const;

  /// Forwards again on a tape, with the same random draws, and gives the parameters what these gradients (one for each
  /// output; undefined: none) and the auxiliary losses of the sub-batch are worth; then their hooks run. The random
  /// stream is left alone. Throws ValueError for another number of gradients, ShapeError where one has another shape or
  /// type than its output, and what `cached_step` throws; gradients are then as they were.
  void backward(std::span<const Tensor> gradients) const;

  struct State;
  explicit CachedForward(std::shared_ptr<State> state) : state_(std::move(state)) {}
  /// Throws Error where there is none, as in one that was moved from.
  const std::shared_ptr<State>& state() const;

 private:
  std::shared_ptr<State> state_;
};

struct CachedOptions {
  /// The sub-batch before this one in the same batch of the same encoder: random draws go on from its samples, as if
  /// both had been encoded together.
  const CachedForward* after = nullptr;
  /// Of several processes, how many samples of the batch lower ranks have: random draws of a sub-batch that comes after
  /// none begin there.
  std::int64_t first_sample = 0;
  bool check_recompute = false;      ///< as in StepOptions
  DType autocast = DType::kFloat32;  ///< as in StepOptions
  /// Keeps the representations in the host's page-locked memory until a loss takes them.
  bool offload = false;
};

/// Forwards a whole tower, as one sub-batch of a batch to come, without a tape. Throws ValueError for a tower without
/// samples, or where it makes another number of random draws than the sub-batch before it; random state and buffers are
/// then as they were. What a forward that is done did to them stays, also where `cached_backward` fails.
CachedForward cached(Tower tower, const CachedOptions& options = {});

/// The functional form of gradient caching, for loaders that emit small batches from which the big one is built:
/// `cached(encode, chunk)` forwards without a tape and remembers how to do so again.
template <class Encode, Splittable Input>
CachedForward cached(Encode encode, Input chunk, const CachedOptions& options = {}) {
  return cached(Tower("cached", std::move(chunk), std::move(encode)), options);
}

/// What several sub-batches of one encoder give together, under a name for the loss and for messages about it.
struct CachedBatch {
  std::string name;
  std::vector<CachedForward> chunks;
};

/// What `cached_backward` can be told: as in `StepOptions`. Sub-batches have their own options for the rest.
struct CachedBackwardOptions {
  Number scale = 1;
  bool deferred = false;
  Device device = Device::cpu();
  bool allow_unused = false;
  /// Keeps gradients and the result's representations on the host while sub-batches are forwarded again.
  bool offload = false;
  /// As in DirectOptions; each process has at least one sub-batch of each tower.
  distributed::Communicator* communicator = nullptr;
  bool shared_loss = false;  ///< as in DirectOptions
};

/// The loss over all sub-batches of all towers, its backward, and the second forward of every sub-batch: from here on
/// as `cached_step`, with the same promises.
StepResult cached_backward(std::span<const CachedBatch> towers, const Loss& loss,
                           const CachedBackwardOptions& options = {});

}  // namespace tapecache::gradcache
