#include "tapecache/ops/matmul.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/low_precision.h"

namespace tapecache::ops {

namespace {

using kernels::Activated;
using kernels::Gemm;
using kernels::KernelTable;
using kernels::Mode;
using kernels::UnaryOp;

/// The product of operands of type T or bf16.
template <class T>
void gemm(const char* op, const Gemm& shape, const Tensor& a, const Tensor& b, const Tensor& bias, Tensor& c,
          Mode mode) {
  const T* added = bias.defined() ? bias.data<T>() : nullptr;
  if (a.dtype() == DType::kBFloat16) {
    kernels::find(&KernelTable<T>::gemm_bf16, op, a.device())(shape, a.data<BFloat16>(), b.data<BFloat16>(), added,
                                                              c.mutable_data<T>(), mode);
  } else {
    kernels::find(&KernelTable<T>::gemm, op, a.device())(shape, a.data<T>(), b.data<T>(), added, c.mutable_data<T>(),
                                                         mode);
  }
}

/// The product of a batched left factor's transpose with the right, summed over the batch, into one matrix.
template <class T>
void gemm_summed(const char* op, const Gemm& shape, const Tensor& a, const Tensor& b, GradientTarget& c) {
  if (shape.batch == 0 && !c.accumulate) c.tensor.fill(0);
  Gemm one = shape;
  one.batch = 1;
  const auto matrix = [](const Tensor& all, std::int64_t first, std::int64_t size) {
    return all.reshape({all.numel()}).slice(first, first + size);
  };
  for (std::int64_t i = 0; i < shape.batch; ++i) {
    gemm<T>(op, one, matrix(a, i * shape.stride_a, shape.m * shape.k), matrix(b, i * shape.stride_b, shape.k * shape.n),
            {}, c.tensor, i == 0 ? detail::mode_of(c) : Mode::kAccumulate);
  }
}

Shape leading(const Shape& shape) { return Shape(std::span(shape.begin(), shape.end() - 2)); }

}  // namespace

Variable matmul(const Variable& a, const Variable& b, const MatmulOptions& options) {
  const OpScope scope("matmul");
  detail::require_floating("matmul", "a", a, 2);
  detail::require_alike("matmul", a, "b", b);
  detail::require_floating("matmul", "b", b, 2);
  const bool ta = options.transpose_a, tb = options.transpose_b;
  const std::int64_t m = a.size(ta ? -1 : -2), k = a.size(ta ? -2 : -1);
  const std::int64_t n = b.size(tb ? -2 : -1), k_b = b.size(tb ? -1 : -2);
  const bool a_batched = a.rank() > 2, b_batched = b.rank() > 2;
  if (k != k_b || (a_batched && b_batched && leading(a.shape()) != leading(b.shape()))) {
    throw ShapeError(fmt::format("matmul: {}{} times {}{}: the inner sizes are {} and {}, and batches must be equal",
                                 to_string(a.shape()), ta ? "ᵀ" : "", to_string(b.shape()), tb ? "ᵀ" : "", k, k_b));
  }
  const Shape& batched = b_batched ? b.shape() : a.shape();
  const Shape shape = (a_batched ? a.shape() : batched).with(-1, n).with(-2, m);
  const std::int64_t batch = leading(shape).numel();
  const std::int64_t stride_a = a_batched ? m * k : 0, stride_b = b_batched ? n * k : 0;

  Tensor c = Tensor::empty(shape, a.dtype(), a.device());
  const Gemm forward{batch, m, n, k, ta, tb, stride_a, stride_b, m * n};
  const Tensor left = detail::operand_of(a.value()), right = detail::operand_of(b.value());
  dispatch_floating("matmul", a.dtype(), [&]<class T>() {
    gemm<T>("matmul", forward, left, right, {}, c, Mode::kWrite);
  });
  return record("matmul", std::move(c), {a, b}, {left, right}, [=](Backward& ctx) {
    const Tensor dc = detail::gradient_like(ctx.saved(0), ctx.output_gradient());
    const std::int64_t stride_c = m * n;
    dispatch_floating("matmul", ctx.output_gradient().dtype(), [&]<class T>() {
      if (ctx.needs(0)) {
        // dA = dC Bᵀ, or stored transposed: dAᵀ = B dCᵀ
        GradientTarget da = ctx.gradient(0);
        const Tensor& other = ctx.saved(1);
        const Tensor &first = ta ? other : dc, &second = ta ? dc : other;
        const Gemm g = ta ? Gemm{batch, k, m, n, tb, true, stride_b, stride_c, stride_a}
                          : Gemm{batch, m, k, n, false, !tb, stride_c, stride_b, stride_a};
        if (a_batched || batch == 1) gemm<T>("matmul", g, first, second, {}, da.tensor, detail::mode_of(da));
        else gemm_summed<T>("matmul", g, first, second, da);
      }
      if (ctx.needs(1)) {
        // dB = Aᵀ dC, or stored transposed: dBᵀ = dCᵀ A
        GradientTarget db = ctx.gradient(1);
        const Tensor& other = ctx.saved(0);
        const Tensor &first = tb ? dc : other, &second = tb ? other : dc;
        const Gemm g = tb ? Gemm{batch, n, k, m, true, ta, stride_c, stride_a, stride_b}
                          : Gemm{batch, k, n, m, !ta, false, stride_a, stride_c, stride_b};
        if (b_batched || batch == 1) gemm<T>("matmul", g, first, second, {}, db.tensor, detail::mode_of(db));
        else gemm_summed<T>("matmul", g, first, second, db);
      }
    });
  });
}

namespace {

UnaryOp kernel_of(Activation activation) {
  switch (activation) {
    case Activation::kQuickGelu: return UnaryOp::kQuickGelu;
    case Activation::kGelu: return UnaryOp::kGelu;
    case Activation::kGeluTanh: return UnaryOp::kGeluTanh;
    case Activation::kSilu: return UnaryOp::kSilu;
    case Activation::kRelu: return UnaryOp::kRelu;
  }
  throw ValueError("activated_linear: unknown activation");
}

template <class T>
const T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

/// activation(x), rounded.
template <class T>
Tensor activated_bf16(const char* op, UnaryOp kind, const Tensor& x) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::find(&KernelTable<T>::unary, op, x.device())(kind, 0, 0, x.numel(), x.data<T>(), y.mutable_data<T>());
  return y.to(DType::kBFloat16);
}

void check_linear(const char* op, const Variable& x, const Variable& weight, const Variable& bias) {
  detail::require_floating(op, "x", x, 1);
  detail::require_alike(op, x, "weight", weight);
  if (weight.rank() != 2 || weight.size(1) != x.size(-1)) {
    throw ShapeError(fmt::format("{}: weight has shape {}, expected [out, {}] for x {}", op, to_string(weight.shape()),
                                 x.size(-1), to_string(x.shape())));
  }
  if (bias.defined()) {
    detail::require_alike(op, x, "bias", bias);
    detail::require_shape(op, "bias", bias.shape(), {weight.size(0)});
  }
}

template <class T>
void add_rows(const char* op, const Tensor& dy, GradientTarget db) {
  const std::int64_t out = dy.size(-1);
  kernels::find(&KernelTable<T>::reduce, op, dy.device())(kernels::ReduceOp::kSum, 1, detail::rows_of(dy.shape()), out,
                                                          dy.data<T>(), db.tensor.mutable_data<T>(),
                                                          detail::mode_of(db));
}

}  // namespace

Variable linear(const Variable& x, const Variable& weight, const Variable& bias) {
  constexpr const char* kOp = "linear";
  const OpScope scope(kOp);
  check_linear(kOp, x, weight, bias);
  const std::int64_t rows = detail::rows_of(x.shape()), in = x.size(-1), out = weight.size(0);
  Tensor y = Tensor::empty(x.shape().with(-1, out), x.dtype(), x.device());
  const Tensor input = detail::operand_of(x.value()), w = detail::operand_of(weight.value());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    gemm<T>(kOp, {1, rows, out, in, false, true}, input, w, bias.value(), y, Mode::kWrite);
  });
  return record(kOp, std::move(y), {x, weight, bias}, {input, w}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    const Tensor low_dy = detail::gradient_like(ctx.saved(0), dy);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      if (ctx.needs(0)) {  // dX = dY W
        GradientTarget dx = ctx.gradient(0);
        gemm<T>(kOp, {1, rows, in, out, false, false}, low_dy, ctx.saved(1), {}, dx.tensor, detail::mode_of(dx));
      }
      if (ctx.needs(1)) {  // dW = dYᵀ X
        GradientTarget dw = ctx.gradient(1);
        gemm<T>(kOp, {1, out, in, rows, true, false}, low_dy, ctx.saved(0), {}, dw.tensor, detail::mode_of(dw));
      }
      if (ctx.needs(2)) add_rows<T>(kOp, dy, ctx.gradient(2));  // db = Σ_rows dY
    });
  });
}

Variable activated_linear(const Variable& x, Activation activation, const Variable& weight, const Variable& bias) {
  constexpr const char* kOp = "activated_linear";
  const OpScope scope(kOp);
  check_linear(kOp, x, weight, bias);
  const UnaryOp kind = kernel_of(activation);
  const std::int64_t rows = detail::rows_of(x.shape()), in = x.size(-1), out = weight.size(0);
  Tensor y = Tensor::empty(x.shape().with(-1, out), x.dtype(), x.device());
  const Tensor w = detail::operand_of(weight.value());
  const bool low = w.dtype() == DType::kBFloat16;
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    const Gemm product{1, rows, out, in, false, true};
    if (low) {
      gemm<T>(kOp, product, activated_bf16<T>(kOp, kind, x.value()), w, bias.value(), y, Mode::kWrite);
    } else {
      kernels::find(&KernelTable<T>::activated_gemm, kOp, x.device())(
          product, kind, Activated::kLeft, x.value().data<T>(), w.data<T>(), data_or_null<T>(bias.value()), nullptr,
          y.mutable_data<T>(), Mode::kWrite);
    }
  });
  return record(kOp, std::move(y), {x, weight, bias}, {x.value(), w}, [=](Backward& ctx) {
    const Tensor &dy = ctx.output_gradient(), &z = ctx.saved(0), &saved_w = ctx.saved(1);
    const Tensor low_dy = detail::gradient_like(saved_w, dy);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      const auto fused = kernels::find(&KernelTable<T>::activated_gemm, kOp, dy.device());
      if (ctx.needs(0)) {  // dX = (dY W) f'(X)
        GradientTarget dx = ctx.gradient(0);
        const Gemm product{1, rows, in, out, false, false};
        if (!low && !dx.accumulate) {
          fused(product, kind, Activated::kDerivative, dy.data<T>(), saved_w.data<T>(), nullptr, z.data<T>(),
                dx.tensor.mutable_data<T>(), Mode::kWrite);
        } else {
          Tensor dhidden = dx.accumulate ? Tensor::empty(dx.tensor.shape(), dy.dtype(), dy.device()) : dx.tensor;
          gemm<T>(kOp, product, low_dy, saved_w, {}, dhidden, Mode::kWrite);
          kernels::find(&KernelTable<T>::unary_backward, kOp, dy.device())(kind, 0, 0, dhidden.numel(), z.data<T>(),
                                                                           dhidden.data<T>(),
                                                                           dx.tensor.mutable_data<T>(),
                                                                           detail::mode_of(dx));
        }
      }
      if (ctx.needs(1)) {  // dW = dYᵀ f(X)
        GradientTarget dw = ctx.gradient(1);
        const Gemm product{1, out, in, rows, true, false};
        if (low) {
          gemm<T>(kOp, product, low_dy, activated_bf16<T>(kOp, kind, z), {}, dw.tensor, detail::mode_of(dw));
        } else {
          fused(product, kind, Activated::kRight, dy.data<T>(), z.data<T>(), nullptr, nullptr,
                dw.tensor.mutable_data<T>(), detail::mode_of(dw));
        }
      }
      if (ctx.needs(2)) add_rows<T>(kOp, dy, ctx.gradient(2));  // db = Σ_rows dY
    });
  });
}

}  // namespace tapecache::ops
