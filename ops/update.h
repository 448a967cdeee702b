#pragma once

#include <span>

#include "tapecache/core/tensor.h"
#include "tapecache/ops/kernels.h"

/// Optimiser arithmetic on tensors; never recorded.
namespace tapecache::ops {

/// One AdamW step in place. All tensors have the shape and dtype of `value`. Throws ShapeError.
void adamw_update(const kernels::AdamW& step, const Tensor& gradient, Tensor& value, Tensor& m, Tensor& v);

/// One step of SGD with momentum in place: velocity = momentum · velocity + g; value -= rate · velocity.
void sgd_update(const kernels::Sgd& step, const Tensor& gradient, Tensor& value, Tensor& velocity);

/// Multiplies every element of a floating tensor in place.
void scale_in_place(Tensor& tensor, double factor);

/// Sum of squares of all elements of all tensors, added in f64 in a fixed order.
double squared_norm(std::span<const Tensor> tensors);

}  // namespace tapecache::ops
