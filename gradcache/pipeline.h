#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tapecache/gradcache/backward_order.h"
#include "tapecache/gradcache/gathering.h"
#include "tapecache/gradcache/gradient_reduction.h"
#include "tapecache/gradcache/gradient_transaction.h"
#include "tapecache/gradcache/loss_pass.h"
#include "tapecache/gradcache/ranks.h"
#include "tapecache/gradcache/segments.h"
#include "tapecache/gradcache/side.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

struct PipelineOptions {
  LossOptions loss = {};
  bool offload = false;         // of caches, and of representations after the loss
  bool may_drop_tapes = false;  // for a chunk to be forwarded again where memory runs out
  Device device = Device::cpu();
  std::function<void(const Progress&)> observer = {};
  Segments segments = {};
  bool shared_loss = false;  // whether ranks keep their representations to themselves
  ReductionOptions reduction = {};
  // When the step began, of which this may not be the first attempt.
  std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
};

/// Every way to take a step: forward, loss, backward, commit, without regard to what must be undone when one of them
/// fails. A cached step keeps few tapes or none, a direct one is a single chunk whose tape is kept, and a functional
/// one begins with the loss.
class Pipeline {
 public:
  /// `step` is for messages. The ranks, which have opened the step with these sides, must outlive it.
  Pipeline(const char* step, std::vector<Side> sides, PipelineOptions options, Ranks& ranks);

  /// Forwards every chunk. The `keep` that are forwarded last keep their tapes.
  void forward(std::int64_t keep);
  /// Where sides have been forwarded already.
  void begin_forwarded();
  /// Takes the loss over all representations, and its gradient with respect to them. False where something is not
  /// finite.
  bool take_loss(const Loss& loss, GradientTransaction& transaction);
  /// What `take_loss` finds, given by the caller: of each side's outputs.
  void set_caches(std::vector<std::vector<Tensor>> caches) { caches_ = std::move(caches); }
  /// Gives the parameters what the caches and the auxiliary losses are worth, on all ranks.
  void backward(GradientTransaction& transaction);
  /// Ends the step: its gradients join those of before, unless it was refused.
  StepResult commit(GradientTransaction& transaction, std::size_t peak_bytes);

  StepResult& result() { return result_; }

 private:
  TowerRun& run_at(const Place& place) { return *sides_[place.side].runs[place.run]; }
  void forward_chunk(const Place& place, bool keep);
  void prefetch(const Place& place);
  bool drop_a_kept_tape();
  bool drop_prefetched();
  void forward_chunks(std::int64_t keep);
  const Share& share(std::size_t side) const { return ranks_.shares()[side]; }
  void make_room();
  std::vector<LossInput> loss_inputs(GradientTransaction& transaction);
  void take_representations(std::span<LossInput> inputs);
  void take_whole_loss(const Loss& loss, GradientTransaction& transaction);
  void backward_of_all(GradientTransaction& transaction);
  void backward_own(std::span<const BackwardGroup> order, const GradientWatch::Complete& complete);
  void backward_segments(const BackwardGroup& group, const GradientWatch::Complete& complete);
  void backward_chunks(std::span<const BackwardStep> order, const GradientWatch::Complete& complete);
  void backward_chunk(const BackwardStep& step, const GradientWatch::Complete& complete);
  void count_kept();
  void off_load(std::vector<Tensor>& tensors) const;
  void begin_backward(const Place& place);
  void report(Progress::Phase phase, const std::string& side, std::size_t chunk, std::size_t chunks) const;

  const char* step_;
  std::vector<Side> sides_;
  std::vector<Chunks> chunks_;               // of each side: its runs' chunks, or its sub-batches
  std::vector<std::vector<Tensor>> caches_;  // d loss / d representations, of each side's outputs
  PipelineOptions options_;
  Ranks& ranks_;
  Gathering gathering_;
  std::vector<Parameter> of_encoders_;  // in the order that ranks have in common; of several ranks
  StepReadings readings_;
  StepResult result_;
};

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
