#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "tapecache/autograd/parameter.h"

namespace tapecache::train {

struct LossScalerOptions {
  double initial_scale = 65536;
  double growth_factor = 2;
  double backoff_factor = 0.5;
  std::int64_t growth_interval = 2000;  ///< finite steps in a row after which the scale grows
  double min_scale = 1, max_scale = 16777216;
};

/// Dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training"), for gradients that a narrow range would
/// round to 0: the loss is multiplied by `scale()`, gradients are divided by it before they are used, and a step whose
/// gradients overflowed is skipped with a smaller scale.
///
///   options.scale = scaler.scale();
///   const auto result = gradcache::cached_step(towers, loss, options);
///   const bool finite = result.status == gradcache::StepStatus::kDone && scaler.unscale(parameters);
///   if (finite) optimizer.step(rate);
///   optimizer.clear_gradients();
///   scaler.update(finite);
class LossScaler {
 public:
  struct State {
    double scale = 1;
    std::int64_t finite_in_a_row = 0, steps = 0, skipped = 0;
  };

  /// Throws ValueError naming an option outside its range.
  explicit LossScaler(const LossScalerOptions& options = {});

  double scale() const { return state_.scale; }
  /// Divides every gradient by the scale, in place and once, however often its parameter is listed, and says whether all are
  /// finite then. Where they are not, the step cannot be taken and its gradients are cleared, so that none gets into the next
  /// one's. Once a step: throws Error where it is called again before `update`.
  bool unscale(std::span<const Parameter> parameters);
  /// Ends a step: after one that was not finite the scale backs off, after enough finite ones in a row it grows.
  void update(bool finite);

  std::int64_t steps() const { return state_.steps; }
  std::int64_t skipped_steps() const { return state_.skipped; }
  const State& state() const { return state_; }
  /// Throws ValueError for a scale outside the options' range.
  void set_state(const State& state);

  /// Writes the state among a checkpoint's notes, under names that begin with "loss_scaler.".
  void save(std::map<std::string, std::string>& notes) const;
  /// Takes it from there. Throws ValueError, before anything is changed, where one is missing or no number in range.
  void load(const std::map<std::string, std::string>& notes);

 private:
  LossScalerOptions options_;
  State state_;
  bool unscaled_ = false;
};

}  // namespace tapecache::train
