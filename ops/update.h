#pragma once

#include <span>

#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels/update.h"

/// Optimiser arithmetic on tensors; never recorded.
namespace tapecache::ops {

/// Numbers that an update reads when it runs, as f64 scalars on the parameters' device; undefined ones are the host's.
struct LateNumbers {
  Tensor learning_rate = {}, gradient_scale = {};
  /// Where this is not 0 nothing is changed: how many values of the step are NaN or Inf, as `count_non_finite` gives it.
  Tensor non_finite = {};
};

/// What AdamW changes of one parameter, and its own numbers: the corrections are 1 - βᵗ. Where `steps`, an i64 scalar on the
/// parameter's device, is defined (of all parameters or none), t is counted there instead.
struct AdamWParameter {
  Tensor gradient = {}, value = {}, m = {}, v = {};
  double weight_decay = 0, correction1 = 1, correction2 = 1;
  Tensor steps = {};
};

/// One AdamW step in place, over all parameters in one pass. All tensors of one have the shape and dtype of its `value`.
/// Throws ShapeError, DTypeError, DeviceError or, where only some have `steps`, ValueError before anything is changed.
void adamw_update(const kernels::AdamW& step, std::span<AdamWParameter> parameters, const LateNumbers& late = {});

struct SgdParameter {
  Tensor gradient = {}, value = {}, velocity = {};
  double weight_decay = 0;
};

/// The same of SGD with momentum: velocity = momentum · velocity + g; value -= rate · velocity.
void sgd_update(const kernels::Sgd& step, std::span<SgdParameter> parameters, const LateNumbers& late = {});

/// Multiplies every element of a floating tensor in place.
void scale_in_place(Tensor& tensor, double factor);

/// Sum of squares of all elements of all tensors, added in f64 in a fixed order. Waits for their devices.
double squared_norm(std::span<const Tensor> tensors);
/// The same as an f64 scalar on the tensors' device, without a wait. Throws DeviceError where they are on several.
Tensor sum_of_squares(std::span<const Tensor> tensors);
/// How many elements of all tensors are NaN or Inf, in the same way.
Tensor count_non_finite(std::span<const Tensor> tensors);
/// Multiplies the tensors by max_norm / norm where that is below 1; `squared_norm`, on their device, is what `sum_of_squares`
/// gives. A norm that is not finite leaves them as they are.
void clip_to_norm(std::span<Tensor> tensors, const Tensor& squared_norm, double max_norm);

}  // namespace tapecache::ops
