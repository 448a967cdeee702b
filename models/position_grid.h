#pragma once

#include <cstdint>

#include "tapecache/autograd/variable.h"

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// A grid of positions, rows of `x` [side · side, width], as one of rows by columns, [rows · columns, width], by
/// bicubic interpolation, as torch's `interpolate` does it: each value is of four, those beyond the edge being the
/// edge's (a = -0.75), or, with `antialias`, of all that the coarser grid covers (a = -0.5).
Variable resized_grid(const Variable& x, std::int64_t side, std::int64_t rows, std::int64_t columns, bool antialias);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
