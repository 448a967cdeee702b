#pragma once

#include <map>
#include <string>

#include "tapecache/core/tensor.h"
#include "tapecache/train/loss_scaler.h"

namespace tapecache::train {

/// LossScaler whose state is in a device's memory, for steps that do not wait for it and may be captured (`CapturedStep`):
///
///   options.late_scale = scaler.scale();
///   result = gradcache::cached_step(towers, loss, options);  // deferred
///   optimizer.step(ops::LateNumbers{rate, scaler.gradient_scale(), result.non_finite});
///   optimizer.clear_gradients();
///   scaler.update(result.non_finite);
class LateLossScaler {
 public:
  /// Throws ValueError naming an option outside its range.
  explicit LateLossScaler(Device device, const LossScalerOptions& options = {});

  /// f64 scalars, which stay where they are: the scale, and what gradients are to be multiplied by.
  const Tensor& scale() const { return scale_; }
  const Tensor& gradient_scale() const { return inverse_; }
  /// Ends a step, which was finite where `non_finite`, an f64 scalar on the device, is 0. Queued.
  void update(const Tensor& non_finite);

  /// f64 scalar: steps that were not finite.
  const Tensor& skipped_steps() const { return skipped_; }

  /// As LossScaler's, in whose notes the state is written, and which may go on from it. Both wait for the device.
  void save(std::map<std::string, std::string>& notes) const;
  void load(const std::map<std::string, std::string>& notes);

 private:
  LossScalerOptions options_;
  Tensor scale_, inverse_, finite_in_a_row_, steps_, skipped_;
};

}  // namespace tapecache::train
