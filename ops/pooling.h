#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

// Tokens [batch, tokens, width] to [batch, width]. `valid` is bool [batch, tokens] (false marks padding) or undefined;
// a sample with no valid token gets 0. Each throws ShapeError.
Variable mean_pool(const Variable& x, const Tensor& valid = {});
/// Of several maxima the first receives the gradient.
Variable max_pool(const Variable& x, const Tensor& valid = {});
/// Token 0 of each sample.
Variable cls_pool(const Variable& x);
/// The last valid token of each sample. Throws ValueError naming a sample that has none.
Variable last_token_pool(const Variable& x, const Tensor& valid = {});
/// Token index[i] of sample i, index [batch] (i32 or i64, on x's device or the host). Throws ValueError naming the first
/// index out of range.
Variable select_token(const Variable& x, const Tensor& index);

}  // namespace tapecache::ops
