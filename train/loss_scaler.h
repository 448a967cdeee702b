#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/number.h"

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
///   const Number non_finite = scaler.unscale(parameters, result.non_finite);
///   optimizer.step(rate, 1, non_finite);
///   optimizer.clear_gradients();
///   scaler.update(non_finite);
///
/// On a device its state is in that device's memory, for deferred steps, which do not wait and may be captured
/// (`CapturedStep`). Such a step has counted what is not finite among its gradients, and the optimiser may divide them:
///
///   options.scale = scaler.scale();
///   result = gradcache::cached_step(towers, loss, options);  // deferred
///   optimizer.step(rate, scaler.gradient_scale(), result.non_finite);
///   optimizer.clear_gradients();
///   scaler.update(result.non_finite);
class LossScaler {
 public:
  /// Throws ValueError naming an option outside its range.
  explicit LossScaler(const LossScalerOptions& options = {}, Device device = Device::cpu());

  LossScaler(LossScaler&&) = default;
  LossScaler& operator=(LossScaler&&) = default;

  /// What the loss, and what gradients are to be multiplied by: numbers of the host, or those of a device, which stay
  /// where they are and change with each `update`.
  Number scale() const { return as_number(scale_); }
  Number gradient_scale() const { return as_number(inverse_); }
  /// Divides every gradient by the scale, in place and once, however often its parameter is listed. Returns how many
  /// values are not finite: elements of the gradients then, and `non_finite`, which the step has counted. Where there
  /// are any, the step cannot be taken and its gradients are cleared, so that none gets into the next one's. Waits for
  /// the gradients' device. Once a step: throws Error where it is called again before `update`.
  Number unscale(std::span<const Parameter> parameters, const Number& non_finite = 0);
  /// Ends a step, of which so many values were not finite: after any the scale backs off, after enough steps in a row
  /// with none it grows. Does not wait, but for the number of a device that is not the scaler's.
  void update(const Number& non_finite);

  Number steps() const { return as_number(steps_); }
  Number skipped_steps() const { return as_number(skipped_); }

  /// Writes the state among a checkpoint's notes, under names that begin with "loss_scaler."; a scaler of any device
  /// may go on from it. This and `load` wait for the device.
  void save(std::map<std::string, std::string>& notes) const;
  /// Takes it from there. Throws ValueError, before anything is changed, where one is missing or no number in range.
  void load(const std::map<std::string, std::string>& notes);

 private:
  static Number as_number(const Tensor& held) { return held.device().is_cpu() ? Number(held.item()) : Number(held); }

  LossScalerOptions options_;
  Tensor scale_, inverse_, finite_in_a_row_, steps_, skipped_;  // f64 scalars; counts are whole numbers
  bool unscaled_ = false;
};

}  // namespace tapecache::train
