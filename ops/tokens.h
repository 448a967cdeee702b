#pragma once

#include <cstdint>

#include "tapecache/core/tensor.h"

#pragma GCC visibility push(hidden)

namespace tapecache::ops {

/// The place, i64 [batch], of the first valid token in each row of ids (i32 or i64 [batch, tokens]) that has this id;
/// -1 where there is none. Throws ShapeError, and DTypeError for ids or a mask of another type.
Tensor first_token(const Tensor& ids, std::int64_t id, const Tensor& valid = {});
/// The positions, i64 [batch, tokens], of valid tokens, counted in each row from `first`; first - 1 for padding. Throws
/// ShapeError or DTypeError unless `valid` is bool [batch, tokens].
Tensor token_positions(const Tensor& valid, std::int64_t first);

}  // namespace tapecache::ops

#pragma GCC visibility pop
