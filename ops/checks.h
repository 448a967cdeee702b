#pragma once

#include <cstdint>

#include "tapecache/autograd/tape.h"

#pragma GCC visibility push(hidden)

/// Argument checks that the op files share.
namespace tapecache::ops::detail {

/// Throws unless x is defined, of type f32 or f64 and of at least `rank` axes.
void require_floating(const char* op, const char* argument, const Variable& x, int rank = 0);

/// Throws unless x is defined, of a floating type, as a product may take it, and of at least `rank` axes.
void require_operand(const char* op, const char* argument, const Variable& x, int rank = 0);

/// Throws unless b is defined, on the device of a, and of its type; of f32 where a is of 16 bits.
void require_alike(const char* op, const char* argument_a, const Variable& a, const char* argument_b,
                   const Variable& b);

/// Throws unless x is defined, a scalar, and of the type and on the device of another.
void require_scalar_like(const char* op, const char* argument, const Variable& x, const Variable& like);

/// Throws unless ids are defined, i32 or i64, and `count` of them.
void require_ids(const char* op, const char* argument, const Tensor& ids, std::int64_t count);

/// The axis as a number in [0, rank). Throws ShapeError where there is no such axis.
int checked_axis(const char* op, const Shape& shape, int axis);

/// Throws ShapeError unless the argument has exactly this shape.
void require_shape(const char* op, const char* argument, const Shape& found, const Shape& expected);

/// Throws unless weight is [out, x's last axis] and bias, where it is defined, [out], both of x's type, or of f32 where
/// x is of 16 bits.
void require_weight(const char* op, const Variable& x, const Variable& weight, const Variable& bias);

/// Throws unless weight and bias are [x's last axis], which is not empty, of x's type, and ε fits that.
void require_norm(const char* op, const Variable& x, const Variable& weight, const Variable& bias, double epsilon);

/// Throws unless the argument is [x's last axis], which is not empty, and of x's type.
void require_norm_weight(const char* op, const Variable& x, const char* argument, const Variable& weight);

/// Throws ValueError unless ε is positive and, in the type that is computed with, neither 0 nor subnormal nor infinite:
/// it and its inverse are then finite.
void require_epsilon(const char* op, double epsilon, DType computed);

/// Throws unless the tensor is bool, on `device`, and of the given shape.
void require_mask(const char* op, const char* argument, const Tensor& mask, const Shape& expected, Device device);

/// Indices as i64 on `device`. They may also come from the host, where they are looked at first. Throws DTypeError
/// unless they are i32 or i64, DeviceError from any other device, ValueError naming the first outside [0, limit): as
/// `value_checks.h` says, at once or when the device is waited for.
Tensor checked_indices(const char* op, const char* argument, const Tensor& indices, std::int64_t limit, Device device);

/// All rows of the last axis: numel / size(-1), 0 where the axis is empty.
inline std::int64_t rows_of(const Shape& shape) { return shape.product(0, shape.rank() - 1); }

}  // namespace tapecache::ops::detail

#pragma GCC visibility pop
