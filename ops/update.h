#pragma once

#include <span>

#include "tapecache/core/number.h"
#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels/update.h"

#pragma GCC visibility push(hidden)

/// Optimiser arithmetic on tensors; never recorded.
namespace tapecache::ops {

/// What AdamW reads and changes of one parameter.
struct AdamWParameter {
  Tensor gradient = {}, value = {}, m = {}, v = {};
  double weight_decay = 0;
  /// i64 scalar: the steps taken before, counted where it is, on the value's device or the host. The host cannot tell
  /// whether a number that a device holds is to skip a step, so that such a step is counted on the device.
  Tensor steps = {};
};

/// One AdamW step in place, over all parameters in one pass. All tensors of one have the shape and dtype of its
/// `value`. Throws ShapeError, DTypeError or DeviceError before anything is changed.
void adamw_update(const StepNumbers& numbers, const kernels::AdamW& step, std::span<AdamWParameter> parameters);

struct SgdParameter {
  Tensor gradient = {}, value = {}, velocity = {};
  double weight_decay = 0;
};

/// The same of SGD with momentum: velocity = momentum · velocity + g; value -= rate · velocity.
void sgd_update(const StepNumbers& numbers, const kernels::Sgd& step, std::span<SgdParameter> parameters);

/// Multiplies every element of a floating tensor in place.
void scale_in_place(Tensor& tensor, double factor);

/// Sum of squares of all elements of all tensors, added in f64 in a fixed order. It stays on the tensors' device; only
/// where they are on several does the host wait for them, and add what each gives.
Number squared_norm(std::span<const Tensor> tensors);
/// How many elements of all tensors are NaN or Inf, in the same way.
Number count_non_finite(std::span<const Tensor> tensors);
/// Multiplies the tensors, of one device, by max_norm / norm where that is below 1. A norm that is not finite leaves
/// them as they are. Throws DeviceError, before anything is changed, for tensors of several devices.
void clip_to_norm(std::span<Tensor> tensors, const Number& squared_norm, double max_norm);

}  // namespace tapecache::ops

#pragma GCC visibility pop
