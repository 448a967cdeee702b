#pragma once

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

/// Rows of table [entries, width] by ids (i32 or i64, any shape, on the table's device or the host): [ids..., width].
/// The gradient sums over equal ids in a fixed order. Throws ValueError naming the first id that is no entry.
Variable embedding(const Variable& table, const Tensor& ids);

/// Rows of axis 0 of x [rows, ...] by index (i32 or i64, [count]): [count, ...]. Throws ValueError as `embedding`.
Variable gather_rows(const Variable& x, const Tensor& index);

}  // namespace tapecache::ops
