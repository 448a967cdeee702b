#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/parameter.h"
#include "tapecache/core/device.h"
#include "tapecache/gradcache/memory_plan.h"
#include "tapecache/gradcache/representations.h"
#include "tapecache/gradcache/tower.h"

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

struct StepOptions {
  /// Samples a chunk: one number for all towers, or one a tower. The last chunk of a tower may be smaller. A tower made
  /// from chunks keeps its own.
  std::vector<std::int64_t> chunk_sizes = {};
  /// For towers whose samples have lengths: the most tokens (samples times the longest) a chunk may have. Samples are
  /// ordered by length, so that each chunk is padded to its own longest alone; a longer sample is a chunk by itself. 0: cut
  /// by count.
  std::int64_t chunk_tokens = 0;
  /// Instead of chunk sizes: what the step may use. Chunks, and how many of them keep their tape, follow from it.
  std::optional<MemoryBudget> memory_budget = {};
  /// A plan made for such a budget before; else `cached_step` measures and makes one.
  std::optional<MemoryPlan> memory_plan = {};
  /// Multiplies every gradient, those of the loss's own parameters too: 1/k over k accumulated steps, a loss scale.
  double scale = 1;
  /// Multiplies them too, as it is when the step runs: an f64 scalar on the device of the towers' outputs, for a loss scale
  /// that changes from one replay of a captured step to the next.
  Tensor late_scale = {};
  /// Whether the loss may leave a tower's representations out. `direct_step` and `accumulated_step` do not look.
  bool allow_unused = false;
  /// Forwards samples in fixed blocks of `reproducible_block`, and so sums over them in the same order however they are cut:
  /// cached and direct steps then give bit-identical gradients for every chunk size that is a multiple of it.
  bool reproducible = false;
  /// Larger blocks are faster, and allow fewer chunk sizes.
  std::int64_t reproducible_block = 8;
  /// Compares the representations of the second forward with those of the first, bit by bit.
  bool check_recompute = false;
  /// On OutOfMemory, halves the chunks and runs the step again, down to one sample (or reproducible block) a chunk. Within a
  /// memory budget that is done always.
  bool retry_smaller_chunks = false;
  /// kBFloat16 or kFloat16: the encoders run under such an `Autocast`, in both forwards. The loss stays in f32. f16 needs a
  /// loss scale.
  DType autocast = DType::kFloat32;
  /// Keeps representations and their cached gradients in the host's page-locked memory, but for the loss, which takes all of
  /// them, and for the rows of the chunk at work. For `cached_step` and `cached_backward` on a device; nothing else is changed
  /// by it.
  bool offload = false;
  /// Called as a cached step proceeds.
  std::function<void(const Progress&)> observer = {};
  /// Whether the host is not to wait: the step is queued, and gives gradients whatever comes out. `StepResult` then has
  /// `device_loss` and `non_finite` in place of what it would have read.
  bool deferred = false;
  /// The device whose bytes `peak_bytes` counts and a budget limits: that of the encoders, which a step does not look for.
  Device device = Device::cpu();
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
  /// The loss with its auxiliary parts, unscaled.
  double loss = 0;
  std::vector<AuxiliaryResult> auxiliary;
  /// Of a deferred step alone, as f64 scalars on its device: the loss with its auxiliary parts; and how many of it and the
  /// elements of all gradients, those of before included, are NaN or Inf, for an optimiser that is to leave such a step out.
  Tensor device_loss, non_finite;
  /// Each output of each tower over the whole batch, without history; in the host's memory where they were off-loaded.
  std::vector<Tensor> representations;
  /// Root mean square, over the samples, of the norm of a sample's representation; 0 for outputs that are no floats.
  std::vector<double> representation_norms;
  /// Every parameter that the step gave a gradient.
  std::vector<Parameter> parameters;
  std::int64_t chunks = 0;       ///< of all towers
  std::vector<std::int64_t> largest_chunks;  ///< samples of each tower's largest
  std::int64_t kept_chunks = 0;  ///< of those, the ones whose tape was kept, so that they were forwarded once
  std::int64_t retries = 0;      ///< times the step began again, keeping fewer tapes or with smaller chunks
  std::size_t peak_bytes = 0;    ///< most bytes in use at once
  PhaseSeconds seconds;          ///< of `cached_step` alone
};

/// The cached step (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"):
/// forward every chunk without a tape, take the loss over all representations, keep its gradient with respect to
/// each, then forward every chunk again and inject its slice. Adds to the parameters' gradients what a backward over
/// the whole batch would add. A tower that reads no unfrozen parameter is not forwarded a second time. Hooks of
/// parameters run once, at the end. The random stream advances as in `direct_step`.
///
/// An exception leaves parameters, gradients, buffers and random state as they were; so does a loss or a cache that is not
/// finite, but for the random stream, which goes on. Throws ValueError
/// - for no towers, an empty one, two of one name; an empty loss; a scale that is not finite;
/// - for chunk sizes below 1, of another number than the towers, none beside no budget, no multiple of the reproducible block, or
///   beside a budget or a plan; for chunk_tokens below 0 or with `reproducible`; for a budget of nothing, a plan that keeps
///   fewer than 0 chunks;
/// - for a tower that is not frozen and of which the loss uses nothing, unless that is allowed;
/// - where neither an encoder nor the loss reads a parameter that is not frozen, so that nothing would be trained;
/// - for inputs or parameters changed between the two forwards, an encoder whose second forward makes another number of random
///   draws or, with `check_recompute`, gives other values;
/// ShapeError for a loss that is no scalar, a second forward of other shapes, a late scale of another kind; OutOfMemory.
StepResult cached_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options);

/// The same step with the whole batch forwarded once, on one tape: what `cached_step` must equal. It throws and refuses what
/// that does, but for unused towers. How to cut is ignored, but for reproducible blocks and chunks of the caller's own.
StepResult direct_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options = {});

/// Plain gradient accumulation, for comparison: each group of chunks takes its own loss, weighted by its share of
/// the samples, so that only the diagonal blocks of the logits are ever seen. All towers need the same chunk count. The result
/// has no representations. A group whose loss or cache is not finite refuses the whole step. Throws ValueError for other
/// counts, chunk_tokens, a memory budget or plan, a deferred step.
StepResult accumulated_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options);

}  // namespace tapecache::gradcache
