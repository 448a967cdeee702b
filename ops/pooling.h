#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

// Tokens [batch, tokens, width] to [batch, width]. `valid` is bool [batch, tokens] (false marks padding) or undefined;
// a sample with no valid token gets 0. Each throws ShapeError.
Variable mean_pool(const Variable& x, const Tensor& valid = {});
/// Of several maxima the first receives the gradient.
Variable max_pool(const Variable& x, const Tensor& valid = {});
/// The first valid token of each sample. Throws ValueError naming a sample that has none.
Variable cls_pool(const Variable& x, const Tensor& valid = {});
/// The last valid token of each sample. Throws ValueError naming a sample that has none.
Variable last_token_pool(const Variable& x, const Tensor& valid = {});
/// Token index[i] of sample i, index [batch] (i32 or i64, on x's device or the host). Throws ValueError naming the
/// first index out of range.
Variable select_token(const Variable& x, const Tensor& index);

/// The place, i64 [batch], of the first valid token in each row of ids (i32 or i64 [batch, tokens]) that has this id;
/// -1 where there is none. Throws ShapeError, and DTypeError for ids or a mask of another type.
Tensor first_token(const Tensor& ids, std::int64_t id, const Tensor& valid = {});
/// The positions, i64 [batch, tokens], of valid tokens, counted in each row from `first`; first - 1 for padding. Throws
/// ShapeError or DTypeError unless `valid` is bool [batch, tokens].
Tensor token_positions(const Tensor& valid, std::int64_t first);

}  // namespace tapecache::ops
