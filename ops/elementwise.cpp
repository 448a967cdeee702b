#include "tapecache/ops/elementwise.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

namespace {

using kernels::BinaryKernels;
using kernels::BinaryOp;
using kernels::UnaryKernels;
using kernels::UnaryOp;

kernels::Broadcast layout_of(const Shape& a, const Shape& b, const Shape& out) {
  kernels::Broadcast layout;
  layout.rank = out.rank();
  const auto fill = [&](const Shape& operand, auto& strides) {
    std::int64_t stride = 1;
    for (int i = 1; i <= operand.rank(); ++i) {
      const auto at = static_cast<std::size_t>(out.rank() - i);
      strides[at] = operand[-i] == 1 ? 0 : stride;
      stride *= operand[-i];
    }
  };
  for (int i = 0; i < out.rank(); ++i) layout.sizes[static_cast<std::size_t>(i)] = out[i];
  fill(a, layout.a);
  fill(b, layout.b);
  return layout;
}

Variable binary(const char* op, BinaryOp kind, const Variable& a, const Variable& b) {
  const OpScope scope(op);
  detail::require_floating(op, "a", a);
  detail::require_alike(op, "a", a, "b", b);
  const Shape shape = Shape::broadcast(op, a.shape(), b.shape());
  const kernels::Broadcast layout = layout_of(a.shape(), b.shape(), shape);
  Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  dispatch_floating(op, a.dtype(),
                    [&]<class T>() { detail::call(op, a.device(), &BinaryKernels<T>::binary, kind, layout, a, b, y); });
  // The derivatives of sums need no values; shapes and strides are numbers.
  const bool needs_values = kind == BinaryOp::kMultiply || kind == BinaryOp::kDivide;
  std::vector<Tensor> saved;
  if (needs_values) saved = {a.value(), b.value()};
  return record(op, std::move(y), {a, b}, saved, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    for (int operand = 0; operand < 2; ++operand) {
      const auto input = static_cast<std::size_t>(operand);
      if (!ctx.needs(input)) continue;
      const auto& strides = operand == 0 ? layout.a : layout.b;
      bool repeated = false;
      for (int i = 0; i < layout.rank; ++i) {
        const auto at = static_cast<std::size_t>(i);
        repeated = repeated || (strides[at] == 0 && layout.sizes[at] != 1);
      }
      const bool is_identity = kind == BinaryOp::kAdd || (kind == BinaryOp::kSubtract && operand == 0);
      if (is_identity && !repeated && ctx.input_shape(input) == dy.shape()) {
        ctx.pass(input, dy);
        continue;
      }
      GradientTarget dx = ctx.gradient(input);
      dispatch_floating(op, dy.dtype(), [&]<class T>() {
        detail::call(op, dy.device(), &BinaryKernels<T>::binary_backward, kind, operand, layout,
                     needs_values ? ctx.saved(0).data<T>() : nullptr, needs_values ? ctx.saved(1).data<T>() : nullptr,
                     dy, dx, dx);
      });
    }
  });
}

Variable unary(const char* op, UnaryOp kind, const Variable& x, double a = 0, double b = 0) {
  const OpScope scope(op);
  detail::require_floating(op, "x", x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_floating(op, x.dtype(), [&]<class T>() {
    detail::call(op, x.device(), &UnaryKernels<T>::unary, kind, a, b, x.numel(), x, y);
  });
  std::vector<Tensor> saved;
  if (kind != UnaryOp::kScale) saved = {kernels::derivative_uses_output(kind) ? y : x.value()};
  return record(op, std::move(y), {x}, saved, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(op, dy.dtype(), [&]<class T>() {
      detail::call(op, dy.device(), &UnaryKernels<T>::unary_backward, kind, a, b, dy.numel(),
                   kind == UnaryOp::kScale ? nullptr : ctx.saved(0).data<T>(), dy, dx, dx);
    });
  });
}

}  // namespace

Variable add(const Variable& a, const Variable& b) { return binary("add", BinaryOp::kAdd, a, b); }
Variable subtract(const Variable& a, const Variable& b) { return binary("subtract", BinaryOp::kSubtract, a, b); }
Variable multiply(const Variable& a, const Variable& b) { return binary("multiply", BinaryOp::kMultiply, a, b); }
Variable divide(const Variable& a, const Variable& b) { return binary("divide", BinaryOp::kDivide, a, b); }

Variable scale(const Variable& x, double factor) { return unary("scale", UnaryOp::kScale, x, factor); }
Variable negate(const Variable& x) { return unary("negate", UnaryOp::kScale, x, -1); }
Variable exp(const Variable& x) { return unary("exp", UnaryOp::kExp, x); }
Variable log(const Variable& x) { return unary("log", UnaryOp::kLog, x); }
Variable sqrt(const Variable& x) { return unary("sqrt", UnaryOp::kSqrt, x); }
Variable rsqrt(const Variable& x) { return unary("rsqrt", UnaryOp::kRsqrt, x); }
Variable pow(const Variable& x, double exponent) { return unary("pow", UnaryOp::kPow, x, exponent); }
Variable tanh(const Variable& x) { return unary("tanh", UnaryOp::kTanh, x); }
Variable erf(const Variable& x) { return unary("erf", UnaryOp::kErf, x); }
Variable sigmoid(const Variable& x) { return unary("sigmoid", UnaryOp::kSigmoid, x); }
Variable relu(const Variable& x) { return unary("relu", UnaryOp::kRelu, x); }
Variable gelu(const Variable& x) { return unary("gelu", UnaryOp::kGelu, x); }
Variable gelu_tanh(const Variable& x) { return unary("gelu_tanh", UnaryOp::kGeluTanh, x); }
Variable quick_gelu(const Variable& x) { return unary("quick_gelu", UnaryOp::kQuickGelu, x); }
Variable silu(const Variable& x) { return unary("silu", UnaryOp::kSilu, x); }

Variable activate(Activation activation, const Variable& x) {
  switch (activation) {
    case Activation::kQuickGelu:
      return quick_gelu(x);
    case Activation::kGelu:
      return gelu(x);
    case Activation::kGeluTanh:
      return gelu_tanh(x);
    case Activation::kSilu:
      return silu(x);
    case Activation::kRelu:
      return relu(x);
  }
  throw ValueError("activate: unknown activation");
}

Variable softplus(const Variable& x) { return unary("softplus", UnaryOp::kSoftplus, x); }

Variable clamp(const Variable& x, double low, double high) {
  if (!(low <= high)) throw ValueError(fmt::format("clamp: low is {} and high {}, expected low <= high", low, high));
  return unary("clamp", UnaryOp::kClamp, x, low, high);
}

}  // namespace tapecache::ops
