#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/gradcache/step.h"

namespace tapecache::gradcache {

/// The difference between two gradients of one parameter.
struct ParameterDifference {
  std::string name;
  double max_absolute = 0;  ///< largest |a - b| over the elements
  /// The same divided by the largest |a| of the reference. It is large if the true gradient is 0 and both are rounding
  /// errors, as for the bias of attention's keys.
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

/// Runs the direct and the cached step with the same weights and random state, and reports how much the gradients of
/// `parameters` differ. Gradients, buffers and random state are restored, and no hook runs. NaN is reported as NaN;
/// `deferred` has no effect. Throws ValueError if neither step gave any of the parameters a gradient.
Comparison compare(std::span<const Tower> towers, const Loss& loss, const StepOptions& options,
                   std::span<const Parameter> parameters);

/// The same for every parameter that the encoders and the loss read, which one extra forward finds.
Comparison compare(std::span<const Tower> towers, const Loss& loss, const StepOptions& options);

/// The same for any two ways to take a step. Gradients of other parameters are restored too, if the functions use the
/// steps of this module. Also throws ValueError for an empty function.
Comparison compare_steps(const std::function<StepResult()>& reference, const std::function<StepResult()>& other,
                         std::span<const Parameter> parameters);

}  // namespace tapecache::gradcache
