#pragma once

#include <span>

#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels.h"

/// Optimiser arithmetic on tensors; never recorded.
namespace tapecache::ops {

/// What AdamW changes of one parameter, and its own numbers: the corrections are 1 - βᵗ.
struct AdamWParameter {
  Tensor gradient, value, m, v;
  double weight_decay = 0, correction1 = 1, correction2 = 1;
};

/// One AdamW step in place, over all parameters in one pass. All tensors of one have the shape and dtype of its `value`.
/// Throws ShapeError or DTypeError before anything is changed.
void adamw_update(const kernels::AdamW& step, std::span<AdamWParameter> parameters);

struct SgdParameter {
  Tensor gradient, value, velocity;
  double weight_decay = 0;
};

/// The same of SGD with momentum: velocity = momentum · velocity + g; value -= rate · velocity.
void sgd_update(const kernels::Sgd& step, std::span<SgdParameter> parameters);

/// Multiplies every element of a floating tensor in place.
void scale_in_place(Tensor& tensor, double factor);

/// Sum of squares of all elements of all tensors, added in f64 in a fixed order.
double squared_norm(std::span<const Tensor> tensors);

}  // namespace tapecache::ops
