#include "tapecache/ops/checks.h"

#include <limits>

#include <fmt/format.h>

#include "tapecache/core/element.h"
#include "tapecache/core/value_checks.h"

namespace tapecache::ops::detail {

namespace {

void require_rank(const char* op, const char* argument, const Variable& x, int rank) {
  if (x.rank() >= rank) return;
  throw ShapeError(
      fmt::format("{}: {} has shape {}, expected at least {} axes", op, argument, to_string(x.shape()), rank));
}

void require_integers(const char* op, const char* argument, const Tensor& indices) {
  if (!indices.defined()) throw ValueError(fmt::format("{}: {} are undefined", op, argument));
  if (indices.dtype() != DType::kInt32 && indices.dtype() != DType::kInt64) {
    throw DTypeError(fmt::format("{}: {} are {}, expected int32 or int64", op, argument, name(indices.dtype())));
  }
}

}  // namespace

void require_floating(const char* op, const char* argument, const Variable& x, int rank) {
  if (!x.defined()) throw ValueError(fmt::format("{}: {} is undefined", op, argument));
  if (x.dtype() != DType::kFloat32 && x.dtype() != DType::kFloat64) {
    throw DTypeError(fmt::format("{}: {} is {}, expected float32 or float64", op, argument, name(x.dtype())));
  }
  require_rank(op, argument, x, rank);
}

void require_operand(const char* op, const char* argument, const Variable& x, int rank) {
  if (!x.defined() || !is_low_precision(x.dtype())) return require_floating(op, argument, x, rank);
  require_rank(op, argument, x, rank);
}

void require_alike(const char* op, const char* argument_a, const Variable& a, const char* argument_b,
                   const Variable& b) {
  require_floating(op, argument_b, b);
  const bool low = is_low_precision(a.dtype());
  if (b.dtype() != (low ? DType::kFloat32 : a.dtype())) {
    throw DTypeError(fmt::format("{}: {} is {} and {} is {}, expected {}", op, argument_a, name(a.dtype()), argument_b,
                                 name(b.dtype()), low ? "float32 beside 16 bits" : "one type"));
  }
  if (a.device() != b.device()) {
    throw DeviceError(fmt::format("{}: {} is on {} and {} on {}, expected one device", op, argument_a,
                                  to_string(a.device()), argument_b, to_string(b.device())));
  }
}

void require_scalar_like(const char* op, const char* argument, const Variable& x, const Variable& like) {
  if (!x.defined()) throw ValueError(fmt::format("{}: {} is undefined, expected a scalar", op, argument));
  if (x.numel() != 1 || x.rank() > 1) {
    throw ShapeError(fmt::format("{}: {} is {}, expected a scalar", op, argument, describe(x.value())));
  }
  if (x.dtype() != like.dtype()) {
    throw DTypeError(fmt::format("{}: {} is {}, expected {}", op, argument, name(x.dtype()), name(like.dtype())));
  }
  if (x.device() != like.device()) {
    throw DeviceError(
        fmt::format("{}: {} is on {}, expected {}", op, argument, to_string(x.device()), to_string(like.device())));
  }
}

void require_ids(const char* op, const char* argument, const Tensor& ids, std::int64_t count) {
  require_integers(op, argument, ids);
  if (ids.shape() == Shape{count}) return;
  throw ShapeError(fmt::format("{}: {} have shape {}, expected [{}]", op, argument, to_string(ids.shape()), count));
}

int checked_axis(const char* op, const Shape& shape, int axis) {
  const int positive = axis < 0 ? axis + shape.rank() : axis;
  if (positive < 0 || positive >= shape.rank()) {
    throw ShapeError(fmt::format("{}: axis {} of {}, which has {} axes", op, axis, to_string(shape), shape.rank()));
  }
  return positive;
}

void require_shape(const char* op, const char* argument, const Shape& found, const Shape& expected) {
  if (found != expected) {
    throw ShapeError(
        fmt::format("{}: {} has shape {}, expected {}", op, argument, to_string(found), to_string(expected)));
  }
}

void require_weight(const char* op, const Variable& x, const Variable& weight, const Variable& bias) {
  require_alike(op, "x", x, "weight", weight);
  if (weight.rank() != 2 || weight.size(1) != x.size(-1)) {
    throw ShapeError(fmt::format("{}: weight has shape {}, expected [out, {}] for x {}", op, to_string(weight.shape()),
                                 x.size(-1), to_string(x.shape())));
  }
  if (bias.defined()) {
    require_alike(op, "x", x, "bias", bias);
    require_shape(op, "bias", bias.shape(), {weight.size(0)});
  }
}

void require_epsilon(const char* op, double epsilon, DType computed) {
  const bool wide = computed == DType::kFloat64;
  const double least = wide ? std::numeric_limits<double>::min() : std::numeric_limits<float>::min();
  const double most = wide ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  if (!(epsilon > 0)) throw ValueError(fmt::format("{}: epsilon is {}, expected above 0", op, epsilon));
  if (epsilon < least) {
    throw ValueError(fmt::format("{}: epsilon is {}, expected at least {} in {}", op, epsilon, least, name(computed)));
  }
  if (epsilon > most) {
    throw ValueError(fmt::format("{}: epsilon is {}, expected at most {} in {}", op, epsilon, most, name(computed)));
  }
}

void require_norm(const char* op, const Variable& x, const Variable& weight, const Variable& bias, double epsilon) {
  require_epsilon(op, epsilon, x.dtype());
  require_norm_weight(op, x, "weight", weight);
  require_norm_weight(op, x, "bias", bias);
}

void require_norm_weight(const char* op, const Variable& x, const char* argument, const Variable& weight) {
  require_alike(op, "x", x, argument, weight);
  if (x.size(-1) == 0) throw ShapeError(fmt::format("{}: the last axis of {} is empty", op, to_string(x.shape())));
  require_shape(op, argument, weight.shape(), {x.size(-1)});
}

void require_mask(const char* op, const char* argument, const Tensor& mask, const Shape& expected, Device device) {
  if (mask.dtype() != DType::kBool) {
    throw DTypeError(fmt::format("{}: {} is {}, expected bool", op, argument, name(mask.dtype())));
  }
  require_shape(op, argument, mask.shape(), expected);
  if (mask.device() != device) {
    throw DeviceError(
        fmt::format("{}: {} is on {}, expected {}", op, argument, to_string(mask.device()), to_string(device)));
  }
}

Tensor checked_indices(const char* op, const char* argument, const Tensor& indices, std::int64_t limit, Device device) {
  require_integers(op, argument, indices);
  if (!indices.device().is_cpu() && indices.device() != device) {
    throw DeviceError(
        fmt::format("{}: {} are on {}, expected {}", op, argument, to_string(indices.device()), to_string(device)));
  }
  const auto text = [&] {
    return CheckText{fmt::format("{}: {}[{{position}}] is {{value}}, expected 0 to {}", op, argument, limit - 1)};
  };
  return tapecache::checked_indices(indices, limit, text).to(device);
}

}  // namespace tapecache::ops::detail
