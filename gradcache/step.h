#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/device.h"
#include "tapecache/core/error.h"
#include "tapecache/core/number.h"
#include "tapecache/gradcache/tower.h"

namespace tapecache::gradcache {

/// The number of samples in a chunk: one number for all towers, or one for each. The last chunk of a tower may be
/// smaller. A tower made from chunks keeps its own.
struct ChunkSizes {
  std::vector<std::int64_t> sizes;

  ChunkSizes() = default;
  ChunkSizes(std::initializer_list<std::int64_t> each) : sizes(each) {}
  ChunkSizes(std::vector<std::int64_t> each) : sizes(std::move(each)) {}
};

/// For towers whose samples have lengths: the most tokens that a chunk may have, counted as samples times the longest
/// one. Samples are ordered by length, so that each chunk is padded only to its own longest sample. A sample that is
/// longer than the limit is a chunk by itself.
struct ChunkTokens {
  std::int64_t tokens = 0;
  ChunkSizes other_towers = {};  ///< for towers whose samples have no lengths
};

/// The most bytes that may be in use at once during a step, including what was in use before it and what other threads
/// use: steps that overlap all stay within the smallest budget. The step chooses chunks, and how many of them keep
/// their tape, to fit. On OutOfMemory it first keeps fewer tapes, and then halves the chunks.
struct MemoryBudget {
  std::size_t bytes = 0;
  std::int64_t chunk_tokens =
      0;  ///< for towers whose samples have lengths, as `ChunkTokens::tokens`; 0: they are cut by count
};

/// A way to fit a step into a budget, as `plan_memory` finds it.
struct MemoryPlan {
  /// The number of samples in a chunk of each tower; 0 if the tower is cut otherwise (own chunks, chunk_tokens).
  std::vector<std::int64_t> chunk_sizes = {};
  /// How many chunks, the last to be forwarded, keep their tape until their backward.
  std::int64_t kept_chunks = 0;
  std::int64_t chunk_tokens = 0;  ///< as in the budget
  std::size_t bytes = 0;          ///< the budget, which the step does not exceed; 0: no limit
};

/// How the batch of a step is cut into chunks.
struct Cut : std::variant<ChunkSizes, ChunkTokens, MemoryBudget, MemoryPlan> {
  using variant::variant;
  /// `{32}`, for `ChunkSizes{32}`.
  Cut(std::initializer_list<std::int64_t> sizes) : variant(ChunkSizes(sizes)) {}
};

/// The argument of a loss: each output of each tower over the whole batch, in the order of towers and outputs. Converts
/// to a span of variables.
class Representations {
 public:
  void add(std::string name, Variable value) {
    names_.push_back(std::move(name));
    values_.push_back(std::move(value));
  }

  std::size_t size() const { return values_.size(); }
  /// Throws ValueError that lists the names there are.
  const Variable& operator[](std::size_t index) const;
  /// By name: the tower's, "image", or the tower's and the output's, "image.tokens". Throws ValueError that lists the
  /// names there are.
  const Variable& at(std::string_view name) const;
  const std::vector<std::string>& names() const { return names_; }

  operator std::span<const Variable>() const { return values_; }
  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }

 private:
  std::vector<std::string> names_;
  std::vector<Variable> values_;
};

}  // namespace tapecache::gradcache

namespace tapecache::distributed {
class Communicator;
}

namespace tapecache::gradcache {

/// Returns a scalar from the representations of all towers. It may use parameters of its own, such as a temperature,
/// and labels or weights that it holds, which are never cut.
using Loss = std::function<Variable(const Representations& representations)>;

/// The progress of a running step: chunk `chunk` of the `chunks` of a tower is done, or the loss is.
struct Progress {
  enum class Phase { kForward, kLoss, kBackward };

  Phase phase = Phase::kForward;
  std::string tower;  ///< empty for the loss
  std::int64_t chunk = 0, chunks = 0;
  std::size_t bytes = 0;  ///< in use now
  double seconds = 0;     ///< since the step began
};

/// How the gradients of several processes are added. `bucket_bytes` must be the same on all of them.
struct ReductionOptions {
  /// Whether gradients travel while backward still runs: those of the tower with the most parameters first, during the
  /// backward of the others. A thread of the step makes the calls meanwhile. Gradients are the same bits without.
  /// Gradients of parameters on a device travel after the backward.
  bool overlap = true;
  /// The approximate size of a bucket of gradients. A bucket travels when all of it is there on every process, after a
  /// call of a few bytes. Small buckets hide more of their time, large ones cost less where each call is slow.
  std::size_t bucket_bytes = std::size_t{16} << 20;
};

/// Options of a step on the whole batch at once.
struct DirectOptions {
  /// Multiplies every gradient, including those of the loss's own parameters: 1/k for k accumulated steps, or a loss
  /// scale. A scale that changes between replays of a captured step must be on the device of the towers' outputs.
  Number scale = 1;
  /// Forwards the samples in fixed blocks of this size, and so sums over them in the same order however they are cut:
  /// cached and direct steps give bit-identical gradients for every chunk size that is a multiple of it. 8 allows many
  /// chunk sizes, and larger blocks are faster; 0: no blocks.
  std::int64_t reproducible_block = 0;
  /// With kBFloat16 or kFloat16, both forwards of the encoders run under an `Autocast` of that type; with kFloat32,
  /// under the caller's, if there is one. The loss always runs without, unless it makes one itself. f16 needs a loss
  /// scale.
  DType autocast = DType::kFloat32;
  /// Queues the step without waiting for the device; gradients are then computed even if the loss is not finite. The
  /// numbers of `StepResult` stay on the device, and means and norms are left out.
  bool deferred = false;
  /// The device of the encoders, whose bytes `peak_bytes` counts and a budget limits. A step does not find it out.
  Device device = Device::cpu();
  /// The processes that take the step together; null: this one alone. Each calls the same step with equal towers, loss
  /// and options, and with its own samples of each tower, of any number (also none, if the encoder can take none). The
  /// batch consists of the samples of all ranks, in the order of ranks. The loss is taken over the whole batch on every
  /// rank and need not know of the others. Gradients and result are those of one process with the whole batch, and the
  /// same on every rank. An error on one rank, or a difference between ranks, throws on all. Not for deferred and
  /// captured steps.
  distributed::Communicator* communicator = nullptr;
  /// A power of two, such as 8: the number of segments of the batch over which sums are taken separately and then added
  /// as a fixed binary tree. The bits of gradients then do not depend on the number of processes, as long as each has
  /// the same number of whole segments (segment s of n is samples ⌊s·N/n⌋ to ⌊(s+1)·N/n⌋ of each tower) and chunks are
  /// of one size or of whole `reproducible_block`s. Needs memory for up to log2 n + 1 more gradients of all parameters.
  /// Not with `shared_loss`, whose sums depend on how many ranks take it. 0: no segments.
  std::int64_t reproducible_segments = 0;
  /// For several processes: does not gather representations, but gives the loss this rank's alone. The loss must
  /// compute the whole batch's value together with the other ranks (`losses::InfoNceOptions::communicator`): every rank
  /// gets that value, the gradient of its own rows, and the whole gradient of the loss's parameters. The result has
  /// this rank's representations.
  bool shared_loss = false;
  ReductionOptions reduction = {};  ///< of several processes
};

/// Options of plain accumulation: see `DirectOptions`.
struct AccumulatedOptions {
  ChunkSizes chunk_sizes = {};
  Number scale = 1;
  std::int64_t reproducible_block = 0;
  DType autocast = DType::kFloat32;
  Device device = Device::cpu();
  /// The processes that take the step together, each with its own samples, at least one of each tower. Each cuts its
  /// own into groups, so that no loss has samples of two of them; gradients and results are those of one process that
  /// has these groups of all.
  distributed::Communicator* communicator = nullptr;
  ReductionOptions reduction = {};
};

/// Options of a cached step.
struct StepOptions {
  /// How the batch is cut into chunks.
  Cut cut = {};
  Number scale = 1;                     ///< as in DirectOptions
  std::int64_t reproducible_block = 0;  ///< as in DirectOptions; chunk sizes must be multiples of it
  DType autocast = DType::kFloat32;     ///< as in DirectOptions
  bool deferred = false;                ///< as in DirectOptions
  Device device = Device::cpu();        ///< as in DirectOptions
  /// Whether the loss may leave a tower's representations out.
  bool allow_unused = false;
  /// Compares the representations of the second forward with those of the first, bit by bit.
  bool check_recompute = false;
  /// On OutOfMemory, halves the chunks and runs the step again, down to one sample (or reproducible block) per chunk. A
  /// step within a memory budget always does.
  bool retry_smaller_chunks = false;
  /// Keeps representations and their cached gradients in page-locked host memory, except while the loss is taken, which
  /// needs all of them, and for the rows of the current chunk. For encoders on a device; changes nothing else.
  bool offload = false;
  /// Called as the step proceeds.
  std::function<void(const Progress&)> observer = {};
  distributed::Communicator* communicator = nullptr;  ///< as in DirectOptions
  std::int64_t reproducible_segments = 0;             ///< as in DirectOptions
  bool shared_loss = false;                           ///< as in DirectOptions
  ReductionOptions reduction = {};                    ///< as in DirectOptions

  /// The options of the direct step that this cached step must equal.
  DirectOptions direct() const {
    return {scale,        reproducible_block,    autocast,    deferred, device,
            communicator, reproducible_segments, shared_loss, reduction};
  }
};

enum class StepStatus {
  kDone,
  kNonFiniteLoss,   ///< the loss is NaN or Inf; no gradient was added
  kNonFiniteCache,  ///< a cached gradient is; the message names tower, sample and chunk, counted from 0
  kDeferred,        ///< the step was queued; its numbers are on the device
};

struct StepResult {
  struct Auxiliary {
    std::string name;
    double mean = 0;  ///< over the batch, unweighted
    double weight = 1;
  };
  struct Seconds {
    double forward = 0, loss = 0, backward = 0;
  };

  StepStatus status = StepStatus::kDone;
  std::string message;  ///< what was not finite
  /// The loss with its auxiliary parts, unscaled. For a deferred step it is on the device, and `item` waits for it.
  Number loss = 0;
  /// How many values of the loss and the caches are NaN or Inf; any refuses the step. For a deferred step it is on the
  /// device and counts the loss and all gradients, including those from before, so that the optimiser can skip the step
  /// (`Optimizer::step`).
  Number non_finite = 0;
  std::vector<Auxiliary> auxiliary;  ///< of the encoders' auxiliary losses
  /// Each output of each tower over the whole batch, without history; in host memory if they were off-loaded.
  std::vector<Tensor> representations;
  /// Root mean square, over the samples, of the norm of a sample's representation; 0 for outputs that are no floats.
  std::vector<double> representation_norms;
  /// Every parameter that got a gradient from the step.
  std::vector<Parameter> parameters;
  std::int64_t chunks = 0;                   ///< of all towers
  std::vector<std::int64_t> largest_chunks;  ///< samples of each tower's largest
  std::int64_t kept_chunks = 0;  ///< of those, the ones whose tape was kept, so that they were forwarded once
  std::int64_t retries = 0;      ///< times the step began again, keeping fewer tapes or with smaller chunks
  std::size_t peak_bytes = 0;    ///< most bytes in use at once
  Seconds seconds;
};

/// The cached step (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"):
/// forward every chunk without a tape, take the loss over all representations, keep its gradient with respect to
/// each, then forward every chunk again and inject its slice. Adds to the parameters' gradients what a backward over
/// the whole batch would add. A tower that reads no unfrozen parameter is not forwarded a second time. Hooks of
/// parameters run once, at the end. The random stream advances as in `direct_step`.
///
/// An exception leaves parameters, gradients, buffers and random state as they were; so does a loss or a cache that is
/// not finite, but for the random stream, which goes on. Throws ValueError
/// - for no towers, an empty one, two of one name; an empty loss; a scale that is not finite;
/// - for chunk sizes below 1, of another number than the towers, no multiple of the reproducible block; for chunks of
///   fewer than one token, or by tokens in a reproducible step; for a budget of nothing, a plan that keeps fewer than 0
///   chunks;
/// - for a tower that is not frozen and of which the loss uses nothing, unless that is allowed;
/// - where neither an encoder nor the loss reads a parameter that is not frozen, so that nothing would be trained;
/// - for inputs or parameters changed between the two forwards, an encoder whose second forward makes another number of
///   random draws or, with `check_recompute`, gives other values;
/// ShapeError for a loss that is no scalar, a second forward of other shapes; OutOfMemory.
StepResult cached_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options);

/// The same step with the whole batch forwarded once, as one chunk a tower whose tape is kept: what `cached_step` must
/// equal. It throws and refuses what that does, but for unused towers. Each tower is recorded on a tape of its own, and
/// a tower made from chunks is encoded chunk by chunk.
StepResult direct_step(std::span<const Tower> towers, const Loss& loss, const DirectOptions& options = {});

/// Plain gradient accumulation, for comparison: each group of chunks takes its own loss, weighted by its share of
/// the samples, so that only the diagonal blocks of the logits are ever seen. All towers need the same chunk count, of
/// each process by itself. The result has no representations, and its chunks are this process's. A group whose loss or
/// cache is not finite refuses the whole step. Throws what `direct_step` throws, and ValueError for other counts.
StepResult accumulated_step(std::span<const Tower> towers, const Loss& loss, const AccumulatedOptions& options);

/// Plans the `cached_step` with these options, whose cut is a memory budget: measures a small and a larger chunk of
/// each tower, forward and backward, and chooses chunks of at most a quarter of what is left (or, where that is less
/// than 8 samples or a reproducible block, of up to so many as all of it holds), and as many kept tapes as fit beside
/// the work on one chunk. Leaves gradients, random state and peak counter as they were. Throws ValueError without a
/// budget and for what `cached_step` refuses, OutOfMemory where the budget does not hold one sample; of a reproducible
/// step chunks are a block at least, whether it fits or not. With a communicator all ranks call it, and each gets its
/// own plan.
MemoryPlan plan_memory(std::span<const Tower> towers, const StepOptions& options);

}  // namespace tapecache::gradcache
