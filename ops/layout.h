#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "tapecache/autograd/variable.h"

namespace tapecache::ops {

/// The same elements under another shape; shares storage. Throws ShapeError where the number of elements differs.
Variable reshape(const Variable& x, const Shape& shape);
/// The same where one size may be -1, as in Tensor::reshape.
Variable reshape(const Variable& x, std::initializer_list<std::int64_t> sizes);

/// Joins along an axis; the other axes must be equal. Throws ShapeError, ValueError for no parts.
Variable concat(std::span<const Variable> parts, int axis = 0);
inline Variable concat(std::initializer_list<Variable> parts, int axis = 0) {
  return concat(std::span(parts.begin(), parts.size()), axis);
}

/// Places [begin, end) of an axis. Along axis 0 it shares storage. Throws ShapeError outside the axis.
Variable slice(const Variable& x, int axis, std::int64_t begin, std::int64_t end);

/// Exchanges two axes. Throws ShapeError where there is no such axis.
Variable transpose(const Variable& x, int axis_a, int axis_b);

/// Rows of table [entries, width] by ids (i32 or i64, any shape, on the table's device or the host): [ids..., width].
/// The gradient sums over equal ids in a fixed order. Throws ValueError naming the first id that is no entry.
Variable embedding(const Variable& table, const Tensor& ids);

/// Rows of axis 0 of x [rows, ...] by index (i32 or i64, [count]): [count, ...]. Throws ValueError as `embedding`.
Variable gather_rows(const Variable& x, const Tensor& index);

/// Convolution whose stride is its kernel size (Dosovitskiy et al. 2021): images [batch, channels, height, width],
/// weight [out, channels, patch, patch], bias [out] or undefined, to tokens [batch, height/patch · width/patch, out]
/// in row-major order of patches. Throws ShapeError where the patch does not divide height and width.
Variable patch_embedding(const Variable& images, const Variable& weight, const Variable& bias = {});

}  // namespace tapecache::ops
