#pragma once

#include <span>
#include <string>
#include <vector>

#include "tapecache/gradcache/chunks.h"
#include "tapecache/gradcache/gradient_transaction.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/gradcache/step_checks.h"
#include "tapecache/gradcache/step_readings.h"

#pragma GCC visibility push(hidden)

/// Step 3 of a cached step: the loss over all representations. Private to gradcache.
namespace tapecache::gradcache::detail {

/// A tower as the loss sees it.
struct LossInput {
  std::string tower;
  std::vector<std::string> names;
  std::vector<Tensor> representations;  ///< each output over the whole batch
  bool frozen = false;
  Chunks chunks = {};  ///< for messages
};

struct LossPass {
  /// d loss / d representations of each tower's outputs; undefined where there is none.
  std::vector<std::vector<Tensor>> caches;
};

struct LossOptions {
  Number scale = 1;
  bool allow_unused = false;  ///< whether it may leave a tower's representations out
  bool deferred = false;
};

/// Takes the loss and its gradients, `options.scale` times; the loss's own parameters receive theirs. Then reads
/// `readings` into the result: the one wait of a step, which a deferred one does without. Sets `result.status` where
/// the loss with its auxiliary parts, or a cache, is not finite. Throws ShapeError for a loss that is no scalar,
/// ValueError for a tower that it does not use, and where neither the towers' parameters, which the transaction knows
/// by then, nor the loss's are any.
LossPass take_loss(const char* step, std::span<const LossInput> towers, const Loss& loss, const LossOptions& options,
                   GradientTransaction& transaction, StepReadings& readings, StepResult& result);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
