#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/gradcache/step.h"

namespace tapecache::gradcache {

/// How far two gradients of one parameter lie apart.
struct ParameterDifference {
  std::string name;
  double max_absolute = 0;  ///< largest |a - b| over its elements
  /// The same divided by the largest |a|, the reference's. Large where the true gradient is 0 and both are rounding, as
  /// that of a bias of keys within a softmax is.
  double max_relative = 0;
};

struct Comparison {
  double loss_reference = 0, loss_other = 0;
  /// ‖g - g_reference‖ / ‖g_reference‖ over all parameters together
  double relative_norm = 0;
  std::vector<ParameterDifference> parameters;
  /// The largest max_relative of all parameters.
  double max_relative() const;
};

/// Runs the step on the whole batch and cached, at the same weights and the same random state, and reports how far
/// the gradients of `parameters` lie apart. Gradients, buffers and random state are left as they were, and no hook
/// runs. A NaN shows as NaN; nothing is deferred. Throws ValueError where neither step gave any of them a gradient.
Comparison compare(std::span<const Tower> towers, const Loss& loss, const StepOptions& options,
                   std::span<const Parameter> parameters);

/// The same for every parameter that the encoders and the loss read, found by one forward more.
Comparison compare(std::span<const Tower> towers, const Loss& loss, const StepOptions& options);

/// The same for any two ways to take a step. Gradients of other parameters than these are left as they were if it is
/// the steps of this module that give them. Throws ValueError for an empty function, too.
Comparison compare_steps(const std::function<StepResult()>& reference, const std::function<StepResult()>& other,
                         std::span<const Parameter> parameters);

}  // namespace tapecache::gradcache
