#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/autograd/operand_cache.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/chunks.h"
#include "tapecache/gradcache/gradient_transaction.h"
#include "tapecache/gradcache/loss_pass.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/gradcache/step_readings.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// Samples that were encoded together.
struct Piece {
  Chunk range;
  Encoded encoded;
};

/// What an encoder gives over a whole batch, filled chunk by chunk.
struct BatchOutputs {
  std::vector<Tensor> values;
  std::vector<Device> devices;  // of the encoder's outputs
  std::vector<std::string> names;
  std::vector<AuxiliaryLoss> auxiliary;
};

/// One tower's side of a cached step: its chunks, what their first forward gave, and their second forward.
class TowerRun {
 public:
  /// Tower and options must outlive it.
  TowerRun(const Tower& tower, Chunks chunks, const StepOptions& options);

  /// Forwards a chunk for the first time. With `keep` it is recorded, and the tape stays for its backward, unless no
  /// parameter is read.
  void forward(std::size_t chunk, bool keep);
  /// Gives a chunk's rows of the cache, and its auxiliary losses, to the parameters: from its kept tape, or forwarding
  /// it again. Throws ValueError where inputs, parameters or (on demand) representations changed in between.
  void backward(std::size_t chunk);
  /// Begins to copy to the device what a chunk's next pass takes from the host: its input, its rows of the cache. That costs
  /// memory until the pass; where there is none, the pass copies.
  void prefetch(std::size_t chunk);
  /// Gives up what was prefetched. Says whether there was anything.
  bool drop_prefetched();
  /// Drops a kept tape, so that the chunk will be forwarded again. Says whether there was one.
  bool drop(std::size_t chunk);
  /// Moves the random stream to where one forward leaves it.
  void finish_forward();
  /// Of each forward, and how many numbers of the random stream it takes; after the first forward.
  const ForwardContext& context() const { return *first_; }
  std::uint32_t calls() const { return *last_call_ - first_->random.key.call; }

  const Tower& tower() const { return *tower_; }
  const Chunks& chunks() const { return chunks_; }
  std::size_t kept() const;
  /// Each output over the whole batch: on the device of the encoder, unless it is off-loaded.
  const std::vector<Tensor>& representations() const { return outputs_.values; }
  /// The same on the device of the encoder.
  std::vector<Tensor> representations_there() const;
  /// Where the encoder leaves each output.
  const std::vector<Device>& devices() const { return outputs_.devices; }
  const std::vector<std::string>& names() const { return outputs_.names; }
  /// Unfrozen parameters that the encoder reads.
  std::span<const Parameter> parameters() const { return parameters_; }
  bool frozen() const { return parameters_.empty(); }
  /// Samples whose mean an auxiliary loss is taken over, where they are more than this tower's.
  void set_batch_size(std::int64_t samples) { batch_size_ = samples; }
  /// Each auxiliary loss, as a summand of its mean over the batch.
  std::vector<AuxiliarySum> auxiliary() const;

  /// d loss / d representations, one for each output; undefined where the loss does not use it.
  void set_cache(std::vector<Tensor> cache);
  void finish_backward();

 private:
  struct Kept {
    std::unique_ptr<Tape> tape;
    std::vector<Piece> pieces;
  };

  struct Version {
    std::weak_ptr<const Storage> storage;
    std::uint64_t number;
  };

  /// On their way to the device, or there.
  struct Prefetched {
    std::vector<Tower::Samples> samples;         // of each piece
    std::vector<std::vector<Tensor>> gradients;  // of each piece, of each output
  };

  Tower::Samples take(const Chunk& range) const;
  std::vector<Tensor> take_gradients(const Chunk& range) const;
  std::vector<Piece> encode(std::size_t chunk, ForwardContext context);
  void check_calls(const Chunk& range);
  BatchOutputs make_outputs(const Piece& first) const;
  void store(const std::vector<Piece>& pieces);
  void note_parameters(std::span<const Parameter> parameters);
  void check_unchanged() const;
  void check_recompute(const std::vector<Piece>& pieces) const;
  void inject_cache(Tape& tape, const std::vector<Piece>& pieces, std::size_t chunk);

  const Tower* tower_;
  Chunks chunks_;
  const StepOptions* options_;
  std::int64_t batch_size_;
  std::optional<ForwardContext> first_;     // that all forwards begin with
  std::optional<std::uint32_t> last_call_;  // of the random stream, that each ends with
  BatchOutputs outputs_;          // made whole by the first chunk that is stored
  std::vector<Tensor> cache_;
  std::vector<Tensor> leaving_;   // the last that was off-loaded, so that nothing waits for its memory
  std::vector<Parameter> parameters_;
  std::vector<Version> parameter_versions_;
  std::uint64_t input_version_ = 0;
  std::vector<Kept> kept_;
  std::vector<Prefetched> prefetched_;
  OperandCache operands_;  // of one pass over the chunks
};

/// A cached step from its first forward to its last backward, without regard to what must be undone when it fails.
class CachedRun {
 public:
  /// `keep` chunks, those forwarded last, keep their tapes.
  CachedRun(std::span<const Tower> towers, const Loss& loss, const StepOptions& options, std::vector<Chunks> chunks,
            std::int64_t keep);

  /// Gives the gradients to the parameters that `transaction` holds.
  StepResult run(GradientTransaction& transaction);

 private:
  using Clock = std::chrono::steady_clock;

  struct Place {
    std::size_t tower, chunk;
  };

  void forward();
  void forward_chunk(std::size_t tower, std::size_t chunk, bool keep);
  void prefetch(std::span<const Place> order, std::size_t next);
  bool drop_a_kept_tape();
  bool drop_prefetched();
  void take_representations(std::span<LossInput> inputs);
  bool fill_caches(GradientTransaction& transaction);
  void backward();
  void report(Phase phase, const std::string& tower, std::size_t chunk, std::size_t chunks) const;

  std::vector<TowerRun> towers_;
  const Loss& loss_;
  const StepOptions& options_;
  std::int64_t keep_;
  StepReadings readings_;
  StepResult result_;
  Clock::time_point begun_ = Clock::now();
};

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
