#include "tapecache/ops/layout.h"

#include <algorithm>

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::LayoutKernels;
using kernels::Mode;

Variable reshape(const Variable& x, const Shape& shape) {
  const OpScope scope("reshape");
  detail::require_floating("reshape", "x", x);
  return record("reshape", x.value().reshape(shape), {x}, {},
                [from = x.shape()](Backward& ctx) { ctx.pass(0, ctx.output_gradient().reshape(from)); });
}

Variable reshape(const Variable& x, std::initializer_list<std::int64_t> sizes) {
  detail::require_floating("reshape", "x", x);
  return reshape(x, Shape::inferred("reshape", sizes, x.shape()));
}

Variable concat(std::span<const Variable> parts, int axis_or_negative) {
  const OpScope scope("concat");
  if (parts.empty()) throw ValueError("concat: no parts, expected at least one");
  detail::require_floating("concat", "part 0", parts[0], 1);
  const Shape& first = parts[0].shape();
  const int axis = detail::checked_axis("concat", first, axis_or_negative);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].defined() || parts[i].dtype() != parts[0].dtype() || parts[i].device() != parts[0].device()) {
      detail::require_alike("concat", "part 0", parts[0], fmt::format("part {}", i).c_str(), parts[i]);
    }
    const Shape& shape = parts[i].shape();
    if (shape.rank() != first.rank() || shape.with(axis, 0) != first.with(axis, 0)) {
      throw ShapeError(fmt::format("concat: part {} has shape {}, expected that of part 0, {}, except along axis {}", i,
                                   to_string(shape), to_string(first), axis));
    }
    total += shape[axis];
  }
  const std::int64_t outer = first.product(0, axis), inner = first.product(axis + 1, first.rank());
  const std::int64_t stride = total * inner;
  Tensor y = Tensor::empty(first.with(axis, total), parts[0].dtype(), parts[0].device());
  dispatch_floating("concat", y.dtype(), [&]<class T>() {
    T* to = y.mutable_data<T>();
    for (const Variable& part : parts) {
      const std::int64_t length = part.size(axis) * inner;
      detail::call("concat", y.device(), &LayoutKernels<T>::copy_blocks, outer, length, part, length, to, stride,
                   Mode::kWrite);
      to += length;
    }
  });
  return record("concat", std::move(y), parts, {}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < ctx.inputs(); ++i) {
      const std::int64_t size = ctx.input_shape(i)[axis];
      if (ctx.needs(i) && outer == 1 && axis == 0) {
        ctx.pass(i, dy.slice(begin, begin + size));
      } else if (ctx.needs(i)) {
        GradientTarget dx = ctx.gradient(i);
        dispatch_floating("concat", dy.dtype(), [&]<class T>() {
          detail::call("concat", dy.device(), &LayoutKernels<T>::copy_blocks, outer, size * inner,
                       dy.data<T>() + begin * inner, stride, dx, size * inner, dx);
        });
      }
      begin += size;
    }
  });
}

Variable slice(const Variable& x, int axis_or_negative, std::int64_t begin, std::int64_t end) {
  const OpScope scope("slice");
  detail::require_floating("slice", "x", x, 1);
  const int axis = detail::checked_axis("slice", x.shape(), axis_or_negative);
  const std::int64_t size = x.size(axis);
  if (begin < 0 || end < begin || end > size) {
    throw ShapeError(fmt::format("slice: places [{}, {}) of axis {}, which has {}, in {}", begin, end, axis, size,
                                 to_string(x.shape())));
  }
  const std::int64_t outer = x.shape().product(0, axis), inner = x.shape().product(axis + 1, x.rank());
  const std::int64_t length = (end - begin) * inner, stride = size * inner;
  Tensor y;
  if (axis == 0) {
    y = x.value().slice(begin, end);
  } else {
    y = Tensor::empty(x.shape().with(axis, end - begin), x.dtype(), x.device());
    dispatch_floating("slice", x.dtype(), [&]<class T>() {
      detail::call("slice", x.device(), &LayoutKernels<T>::copy_blocks, outer, length,
                   x.value().data<T>() + begin * inner, stride, y, length, Mode::kWrite);
    });
  }
  return record("slice", std::move(y), {x}, {}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    if (!dx.accumulate) dx.tensor.fill(0);
    dispatch_floating("slice", dy.dtype(), [&]<class T>() {
      detail::call("slice", dy.device(), &LayoutKernels<T>::copy_blocks, outer, length, dy, length,
                   dx.tensor.mutable_data<T>() + begin * inner, stride, Mode::kAccumulate);
    });
  });
}

Variable transpose(const Variable& x, int axis_a, int axis_b) {
  const OpScope scope("transpose");
  detail::require_floating("transpose", "x", x, 1);
  const auto [a, b] = std::minmax(
      {detail::checked_axis("transpose", x.shape(), axis_a), detail::checked_axis("transpose", x.shape(), axis_b)});
  if (a == b) return x;
  const Shape& shape = x.shape();
  const std::int64_t outer = shape.product(0, a), size_a = shape[a], middle = shape.product(a + 1, b),
                     size_b = shape[b], inner = shape.product(b + 1, shape.rank());
  Tensor y = Tensor::empty(shape.with(a, size_b).with(b, size_a), x.dtype(), x.device());
  dispatch_floating("transpose", x.dtype(), [&]<class T>() {
    detail::call("transpose", x.device(), &LayoutKernels<T>::transpose, outer, size_a, middle, size_b, inner, x, y,
                 Mode::kWrite);
  });
  return record("transpose", std::move(y), {x}, {}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating("transpose", dy.dtype(), [&]<class T>() {
      detail::call("transpose", dy.device(), &LayoutKernels<T>::transpose, outer, size_b, middle, size_a, inner, dy, dx,
                   dx);
    });
  });
}

}  // namespace tapecache::ops
