#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

// All over the last axis of x [..., cols]; each throws ShapeError for a scalar or an empty last axis.
Variable softmax(const Variable& x);
Variable log_softmax(const Variable& x);
/// softmax over the entries where mask (bool, broadcastable to x's shape) is true; the others get 0, and a row with
/// no true entry is all 0. Throws DTypeError where the mask is not bool.
Variable masked_softmax(const Variable& x, const Tensor& mask);

}  // namespace tapecache::ops
