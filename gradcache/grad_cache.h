#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/gradcache/step.h"

namespace tapecache::gradcache {

/// How two ways to take a step differ.
struct Comparison {
  /// The difference between the two gradients of one parameter.
  struct Difference {
    std::string name;
    double max_absolute = 0;  ///< largest |a - b| over the elements
    /// The same divided by the largest |a| of the reference. It is large if the true gradient is 0 and both are
    /// rounding errors, as for the bias of attention's keys.
    double max_relative = 0;
  };

  double loss_reference = 0, loss_other = 0;
  /// ‖g - g_reference‖ / ‖g_reference‖ over all parameters together
  double relative_norm = 0;
  std::vector<Difference> parameters;
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

/// Cached steps that learn from one another: a loss, its options, and what was measured. With a memory budget the first
/// step makes the plan, and the following ones keep it while the batch has the same size and memory suffices.
class GradCache {
 public:
  /// Checks of a running training against the direct step, on the first samples of its towers: these may not be made of
  /// chunks, and the loss may not hold labels or masks of the whole batch.
  struct SelfCheck {
    std::int64_t every = 0;     ///< steps between two checks; 0: none
    std::int64_t samples = 16;  ///< of each step's batch, that the check takes
  };

  /// Throws ValueError for an empty loss, a self-check of fewer than 1 sample or every -1 steps.
  GradCache(Loss loss, StepOptions options, SelfCheck self_check);
  /// Without self-checks.
  GradCache(Loss loss, StepOptions options);

  /// `cached_step` over these towers. Throws what that throws, and ValueError where a tower made of chunks is to be
  /// checked.
  StepResult step(std::span<const Tower> towers);

  /// What the last step's self-check found: the cached against the direct step on the first samples of each tower (of a
  /// tower with k times the samples of the first, k times as many). Empty where that step was not checked.
  const std::optional<Comparison>& checked() const { return checked_; }
  /// The plan in force; empty without a budget, or before the first step.
  const std::optional<MemoryPlan>& plan() const { return plan_; }
  std::int64_t steps() const { return steps_; }
  /// Steps whose loss or cache was not finite, as far as the host knows.
  std::int64_t skipped_steps() const { return skipped_; }

  const StepOptions& options() const { return options_; }
  /// For a loss scale or an accumulation factor that changes as training goes on.
  void set_scale(const Number& scale) { options_.scale = scale; }

 private:
  StepResult take_step(std::span<const Tower> towers);
  void check(std::span<const Tower> towers);

  Loss loss_;
  StepOptions options_;
  SelfCheck self_check_;
  std::optional<MemoryPlan> plan_;
  std::vector<std::int64_t> planned_sizes_;
  std::optional<Comparison> checked_;
  std::int64_t steps_ = 0, skipped_ = 0;
};

}  // namespace tapecache::gradcache
