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

/// Samples a chunk: one number for all towers, or one a tower. The last chunk of a tower may be smaller. A tower made
/// from chunks keeps its own.
struct ChunkSizes {
  std::vector<std::int64_t> sizes;

  ChunkSizes() = default;
  ChunkSizes(std::initializer_list<std::int64_t> each) : sizes(each) {}
  ChunkSizes(std::vector<std::int64_t> each) : sizes(std::move(each)) {}
};

/// For towers whose samples have lengths: the most tokens (samples times the longest) a chunk may have. Samples are
/// ordered by length, so that each chunk is padded to its own longest alone; a longer sample is a chunk by itself.
struct ChunkTokens {
  std::int64_t tokens = 0;
  ChunkSizes other_towers = {};  ///< of towers whose samples have no lengths
};

/// The most bytes that may be in use at once during a step, what was in use before it and what other threads use
/// included: of steps that overlap, all stay within the smallest budget. Chunks, and how many of them keep their tape,
/// follow from it; on OutOfMemory fewer tapes are kept, then chunks are halved.
struct MemoryBudget {
  std::size_t bytes = 0;
  std::int64_t chunk_tokens =
      0;  ///< for towers whose samples have lengths, as `ChunkTokens::tokens`; 0: they are cut by count
};

/// How a step fits into a budget.
struct MemoryPlan {
  /// Samples a chunk, one number a tower; 0 where the cuts are given otherwise (own chunks, chunk_tokens).
  std::vector<std::int64_t> chunk_sizes = {};
  /// The chunks forwarded last that keep their tape until their backward.
  std::int64_t kept_chunks = 0;
  std::int64_t chunk_tokens = 0;  ///< as in the budget
  std::size_t bytes = 0;          ///< of the budget, which a step by this plan keeps to; 0: no limit
};

/// How the batch of a step is cut into chunks.
struct Cut : std::variant<ChunkSizes, ChunkTokens, MemoryBudget, MemoryPlan> {
  using variant::variant;
  /// `{32}`, for `ChunkSizes{32}`.
  Cut(std::initializer_list<std::int64_t> sizes) : variant(ChunkSizes(sizes)) {}
};

/// What a loss is given: each output of each tower over the whole batch, towers and outputs in their order. Converts
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

/// A scalar from the representations of all towers. May use parameters of its own, such as a temperature, and whatever
/// labels or weights it holds: those are never cut.
using Loss = std::function<Variable(const Representations& representations)>;

enum class Phase { kForward, kLoss, kBackward };

/// Where a running step is: chunk `chunk` of `chunks` of a tower has just been done, or the loss.
struct Progress {
  Phase phase = Phase::kForward;
  std::string tower;  ///< empty for the loss
  std::int64_t chunk = 0, chunks = 0;
  std::size_t bytes = 0;  ///< in use now
  double seconds = 0;     ///< since the step began
};

/// How the gradients of several processes are added. `bucket_bytes` must be the same on all of them.
struct ReductionOptions {
  /// Whether gradients travel while backward still runs: those of the tower with the most parameters first, beside the
  /// backward of the others. A thread of the step makes the calls meanwhile. Gradients are the same bits without. Of
  /// parameters on a device they travel after the backward.
  bool overlap = true;
  /// Gradients travel in buckets of about so many bytes, each when all of it is there on every process, after a call of
  /// a few bytes. Small ones hide more of what they take, large ones cost less where calls take long by themselves.
  std::size_t bucket_bytes = std::size_t{16} << 20;
};

/// What a step on the whole batch at once can be told.
struct DirectOptions {
  /// Multiplies every gradient, those of the loss's own parameters too: 1/k over k accumulated steps, a loss scale. One
  /// that changes from one replay of a captured step to the next is on the device of the towers' outputs.
  Number scale = 1;
  /// Forwards samples in fixed blocks of so many, and so sums over them in the same order however they are cut: cached
  /// and direct steps then give bit-identical gradients for every chunk size that is a multiple of it. 8 allows many
  /// chunk sizes, larger blocks are faster; 0: no blocks.
  std::int64_t reproducible_block = 0;
  /// kBFloat16 or kFloat16: the encoders run under such an `Autocast`, in both forwards; kFloat32: under the caller's,
  /// if there is one. The loss is taken under none, in every step, but for one that it makes itself. f16 needs a loss
  /// scale.
  DType autocast = DType::kFloat32;
  /// Whether the host is not to wait: the step is queued, and gives gradients whatever comes out. The numbers of
  /// `StepResult` are then on the device, but for means and norms, which it does without.
  bool deferred = false;
  /// The device whose bytes `peak_bytes` counts and a budget limits: that of the encoders, which a step does not look
  /// for.
  Device device = Device::cpu();
  /// The processes that take the step together; null: this one alone. Each calls the same step with towers, loss and
  /// options alike, and with its own samples of each tower, as many as it has: none, too, of a tower whose encoder can
  /// take none. The batch is those of all ranks, in the order of ranks. The loss is taken over all of it on every rank,
  /// and need not know of the others; gradients and result come out as those of one process that has the whole batch,
  /// and the same on every rank. What fails on one rank, or differs from the others, throws on all. Not for deferred
  /// and captured steps.
  distributed::Communicator* communicator = nullptr;
  /// A power of two, such as 8: sums over samples are taken in so many segments of the batch, each by itself, which are
  /// then added as a fixed binary tree. The bits of gradients then do not depend on how many processes there are, as
  /// long as each has equally many whole segments (segment s of n are samples ⌊s·N/n⌋ to ⌊(s+1)·N/n⌋ of each tower),
  /// and chunks are of one size or of whole `reproducible_block`s. Holds up to log2 n + 1 more gradients of all
  /// parameters. 0: no segments.
  std::int64_t reproducible_segments = 0;
  /// Of several processes: representations are not gathered, and the loss is given this rank's alone. It is one that
  /// makes out with the other ranks what the whole batch's loss is (`losses::InfoNceOptions::communicator`): every rank
  /// gets that value, the gradient of its own rows, and the whole gradient of the loss's parameters. The result has
  /// this rank's representations.
  bool shared_loss = false;
  ReductionOptions reduction = {};  ///< of several processes
};

/// What plain accumulation can be told: see `DirectOptions`.
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

/// What a cached step can be told.
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
  /// On OutOfMemory, halves the chunks and runs the step again, down to one sample (or reproducible block) a chunk.
  /// Within a memory budget that is done always.
  bool retry_smaller_chunks = false;
  /// Keeps representations and their cached gradients in the host's page-locked memory, but for the loss, which takes
  /// all of them, and for the rows of the chunk at work. For encoders on a device; nothing else is changed by it.
  bool offload = false;
  /// Called as the step proceeds.
  std::function<void(const Progress&)> observer = {};
  distributed::Communicator* communicator = nullptr;  ///< as in DirectOptions
  std::int64_t reproducible_segments = 0;             ///< as in DirectOptions
  bool shared_loss = false;                           ///< as in DirectOptions
  ReductionOptions reduction = {};                    ///< as in DirectOptions

  /// Of the direct step that this one must equal.
  DirectOptions direct() const {
    return {scale,        reproducible_block,    autocast,    deferred, device,
            communicator, reproducible_segments, shared_loss, reduction};
  }
};

enum class StepStatus {
  kDone,
  kNonFiniteLoss,   ///< nothing was given a gradient
  kNonFiniteCache,  ///< the same; the message names tower, sample and, counted from 0, chunk
  kDeferred,        ///< queued; what came out is on the device
};

struct PhaseSeconds {
  double forward = 0, loss = 0, backward = 0;
};

struct AuxiliaryResult {
  std::string name;
  double mean = 0;  ///< over the batch, unweighted
  double weight = 1;
};

struct StepResult {
  StepStatus status = StepStatus::kDone;
  std::string message;  ///< what was not finite
  /// The loss with its auxiliary parts, unscaled. Of a deferred step it is on the device, for which `item` waits.
  Number loss = 0;
  /// How many values are NaN or Inf, for an optimiser that is to leave such a step out (`Optimizer::step`): of the loss
  /// and the caches, which refuses the step. Of a deferred step, on its device, those of the loss and all gradients,
  /// those of before included.
  Number non_finite = 0;
  std::vector<AuxiliaryResult> auxiliary;
  /// Each output of each tower over the whole batch, without history; in the host's memory where they were off-loaded.
  std::vector<Tensor> representations;
  /// Root mean square, over the samples, of the norm of a sample's representation; 0 for outputs that are no floats.
  std::vector<double> representation_norms;
  /// Every parameter that the step gave a gradient.
  std::vector<Parameter> parameters;
  std::int64_t chunks = 0;                   ///< of all towers
  std::vector<std::int64_t> largest_chunks;  ///< samples of each tower's largest
  std::int64_t kept_chunks = 0;  ///< of those, the ones whose tape was kept, so that they were forwarded once
  std::int64_t retries = 0;      ///< times the step began again, keeping fewer tapes or with smaller chunks
  std::size_t peak_bytes = 0;    ///< most bytes in use at once
  PhaseSeconds seconds;
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
