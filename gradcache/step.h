#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "tapecache/autograd/parameter.h"
#include "tapecache/gradcache/tower.h"

namespace tapecache::gradcache {

/// A scalar from the representations of all towers, in the towers' order. May use parameters of its own.
using Loss = std::function<Variable(std::span<const Variable> representations)>;

struct StepOptions {
  /// Samples a chunk: one number for all towers, or one a tower. The last chunk of a tower may be smaller.
  std::vector<std::int64_t> chunk_sizes;
};

struct StepResult {
  double loss = 0;
  /// Representations of each tower over the whole batch, without history.
  std::vector<Tensor> representations;
  /// Every parameter that the step gave a gradient.
  std::vector<Parameter> parameters;
};

/// The cached step (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"):
/// forward every chunk without a tape, take the loss over all representations, keep its gradient with respect to
/// each, then forward every chunk again and inject its slice. Adds to the parameters' gradients what a backward over
/// the whole batch would add. A tower that reads no unfrozen parameter is not forwarded a second time. Hooks of
/// parameters run once, after the last chunk. The random stream advances as in `direct_step`.
/// Throws ValueError for a chunk size below 1, no towers, an empty tower, a representation the loss does not use;
/// ShapeError for a loss that is not scalar.
StepResult cached_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options);

/// The same step with the whole batch on one tape: what `cached_step` must equal.
StepResult direct_step(std::span<const Tower> towers, const Loss& loss);

/// Plain gradient accumulation, for comparison: each group of chunks takes its own loss, weighted by its share of
/// the samples, so that only the diagonal blocks of the logits are ever seen. All towers need the same chunk count.
StepResult accumulated_step(std::span<const Tower> towers, const Loss& loss, const StepOptions& options);

}  // namespace tapecache::gradcache
