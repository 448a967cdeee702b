#include "tapecache/ops/linear.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/gemm.h"
#include "tapecache/ops/low_precision.h"

namespace tapecache::ops {

namespace {

using kernels::Gemm;
using kernels::Mode;

/// The product of a batched left factor's transpose with the right, summed over the batch, into one matrix.
void gemm_summed(const char* op, const Gemm& shape, const Tensor& a, const Tensor& b, GradientTarget& c) {
  if (shape.batch == 0 && !c.accumulate) c.tensor.fill(0);
  Gemm one = shape;
  one.batch = 1;
  const auto matrix = [](const Tensor& all, std::int64_t first, std::int64_t size) {
    return all.reshape({all.numel()}).slice(first, first + size);
  };
  for (std::int64_t i = 0; i < shape.batch; ++i) {
    detail::gemm(op, one, matrix(a, i * shape.stride_a, shape.m * shape.k),
                 matrix(b, i * shape.stride_b, shape.k * shape.n), {}, {}, c.tensor,
                 i == 0 ? detail::mode_of(c) : Mode::kAccumulate);
  }
}

Shape leading(const Shape& shape) { return Shape(std::span(shape.begin(), shape.end() - 2)); }

}  // namespace

Variable matmul(const Variable& a, const Variable& b, const MatmulOptions& options) {
  const OpScope scope("matmul");
  detail::require_floating("matmul", "a", a, 2);
  detail::require_alike("matmul", "a", a, "b", b);
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
  const DType operand = detail::operand_type(a.value());
  const Tensor left = detail::in_type("matmul", a.value(), operand),
               right = detail::in_type("matmul", b.value(), operand);
  detail::gemm("matmul", forward, left, right, {}, {}, c, Mode::kWrite);
  return record("matmul", std::move(c), {a, b}, {left, right}, [=](Backward& ctx) {
    const Tensor dc = detail::in_type("matmul", ctx.output_gradient(), ctx.saved(0).dtype());
    const std::int64_t stride_c = m * n;
    if (ctx.needs(0)) {
      // dA = dC Bᵀ, or stored transposed: dAᵀ = B dCᵀ
      GradientTarget da = ctx.gradient(0);
      const Tensor& other = ctx.saved(1);
      const Tensor &first = ta ? other : dc, &second = ta ? dc : other;
      const Gemm g = ta ? Gemm{batch, k, m, n, tb, true, stride_b, stride_c, stride_a}
                        : Gemm{batch, m, k, n, false, !tb, stride_c, stride_b, stride_a};
      if (a_batched || batch == 1) detail::gemm("matmul", g, first, second, {}, {}, da.tensor, detail::mode_of(da));
      else gemm_summed("matmul", g, first, second, da);
    }
    if (ctx.needs(1)) {
      // dB = Aᵀ dC, or stored transposed: dBᵀ = dCᵀ A
      GradientTarget db = ctx.gradient(1);
      const Tensor& other = ctx.saved(0);
      const Tensor &first = tb ? dc : other, &second = tb ? other : dc;
      const Gemm g = tb ? Gemm{batch, n, k, m, true, ta, stride_c, stride_a, stride_b}
                        : Gemm{batch, k, n, m, !ta, false, stride_a, stride_c, stride_b};
      if (b_batched || batch == 1) detail::gemm("matmul", g, first, second, {}, {}, db.tensor, detail::mode_of(db));
      else gemm_summed("matmul", g, first, second, db);
    }
  });
}

}  // namespace tapecache::ops
