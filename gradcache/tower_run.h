#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/autograd/gradient_watch.h"
#include "tapecache/autograd/operand_cache.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/gradcache/chunks.h"
#include "tapecache/gradcache/step_checks.h"
#include "tapecache/gradcache/step_readings.h"

#pragma GCC visibility push(hidden)

namespace tapecache::gradcache::detail {

/// Samples that were encoded together.
struct Piece {
  Chunk range;
  Encoded encoded;
};

/// What an encoder gives over all chunks, filled one by one.
struct BatchOutputs {
  std::vector<Tensor> values;
  std::vector<Device> devices;  // of the encoder's outputs
  std::vector<std::string> names;
  std::vector<AuxiliaryLoss> auxiliary;
};

/// How a tower is forwarded.
struct ForwardOptions {
  const char* step = "";  // for messages
  DType autocast = DType::kFloat32;
  std::int64_t reproducible_block = 0;
  bool check_recompute = false;
  bool offload = false;
  bool spare_memory = false;  // whether nothing is kept for speed alone
};

/// A tower within a step: its chunks, what their forward gave, and their backward, for which a chunk whose tape was not
/// kept is forwarded again.
class TowerRun {
 public:
  /// The tower must outlive it.
  TowerRun(const Tower& tower, Chunks chunks, const ForwardOptions& options);

  /// Forwards a chunk for the first time. With `keep` it is recorded, and the tape stays for its backward, unless no
  /// parameter is read.
  void forward(std::size_t chunk, bool keep);
  /// Moves the random stream to where one forward leaves it.
  void finish_forward();
  /// Takes d loss / d representations, one for each output (undefined where the loss does not use it), and what
  /// auxiliary losses are multiplied by: the scale, over the samples of the batch.
  void begin_backward(std::vector<Tensor> cache, const Number& scale, std::int64_t samples);
  /// Gives a chunk's rows of the cache, and its auxiliary losses, to the parameters: from its kept tape, or forwarding
  /// it again. `complete` is told of parameters that have all of the chunk's share, as far as that is known before the
  /// end. Throws ValueError where inputs, parameters or (on demand) representations changed in between.
  void backward(std::size_t chunk, const GradientWatch::Complete& complete = {});
  void finish_backward();
  /// Begins to copy to the device what a chunk's next pass takes from the host: its input, its rows of the cache. That
  /// costs memory until the pass; where there is none, the pass copies.
  void prefetch(std::size_t chunk);
  /// Gives up what was prefetched. Says whether there was anything.
  bool drop_prefetched();
  /// Drops a kept tape, so that the chunk will be forwarded again. Says whether there was one.
  bool drop(std::size_t chunk);
  /// Of each forward, and how many numbers of the random stream it takes; after the first forward.
  const ForwardContext& context() const { return *first_; }
  std::uint32_t calls() const { return *last_call_ - first_->random.key.call; }

  const Tower& tower() const { return *tower_; }
  const Chunks& chunks() const { return chunks_; }
  std::size_t kept() const;
  /// Each output over all chunks: on the device of the encoder, unless it is off-loaded.
  const std::vector<Tensor>& representations() const { return outputs_.values; }
  /// The same on the device of the encoder.
  std::vector<Tensor> representations_on_device() const;
  /// Where the encoder leaves each output.
  const std::vector<Device>& devices() const { return outputs_.devices; }
  const std::vector<std::string>& names() const { return outputs_.names; }
  /// Unfrozen parameters that the encoder reads.
  std::span<const Parameter> parameters() const { return parameters_; }
  bool frozen() const { return parameters_.empty(); }
  /// Each auxiliary loss, of each sample.
  std::span<const AuxiliaryLoss> auxiliary() const { return outputs_.auxiliary; }

 private:
  struct Kept {
    std::unique_ptr<Tape> tape;
    std::vector<Piece> pieces;
  };

  struct Version {
    std::weak_ptr<const tapecache::detail::Storage> storage;
    std::uint64_t number;
  };

  /// On their way to the device, or there.
  struct Prefetched {
    std::vector<Tower::Samples> samples;         // of each piece
    std::vector<std::vector<Tensor>> gradients;  // of each piece, of each output
  };

  std::vector<Chunk> pieces_of(std::size_t chunk) const;
  Tower::Samples take(const Chunk& range) const;
  std::vector<Tensor> take_gradients(const Chunk& range) const;
  std::vector<Piece> encode(std::size_t chunk, ForwardContext context);
  void check_calls(const Chunk& range);
  BatchOutputs make_outputs(const Piece& first) const;
  void store(const std::vector<Piece>& pieces);
  void note_parameters(std::span<const Parameter> parameters);
  void check_unchanged() const;
  void check_recompute(const std::vector<Piece>& pieces) const;
  void inject_cache(Tape& tape, const std::vector<Piece>& pieces, std::size_t chunk,
                    const GradientWatch::Complete& complete);

  const Tower* tower_;
  Chunks chunks_;
  ForwardOptions options_;
  std::optional<ForwardContext> first_;     // that all forwards begin with
  std::optional<std::uint32_t> last_call_;  // of the random stream, that each ends with
  BatchOutputs outputs_;                    // made whole by the first chunk that is stored
  std::vector<Tensor> cache_;
  Number scale_ = 1;             // of auxiliary losses
  std::int64_t samples_ = 1;     // whose mean they are
  std::vector<Tensor> leaving_;  // the last that was off-loaded, so that nothing waits for its memory
  std::vector<Parameter> parameters_;
  std::vector<Version> parameter_versions_;
  std::uint64_t input_version_ = 0;
  std::vector<Kept> kept_;
  std::vector<Prefetched> prefetched_;
  OperandCache operands_;  // of one pass over the chunks
};

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
