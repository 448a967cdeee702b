#include "tapecache/ops/attention.h"

#include <cmath>

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/low_precision.h"
#include "tapecache/ops/matmul.h"
#include "tapecache/ops/softmax.h"

namespace tapecache::ops {

using kernels::AttentionKernels;

namespace {

Variable biased_attention(const Variable& qkv, std::int64_t heads, const AttentionOptions& options) {
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1), width = qkv.size(2) / 3, head_width = width / heads;
  if (options.causal) throw ValueError("attention: causal beside a bias, expected one of the two");
  if (options.bias.shape() != Shape{heads, tokens, tokens}) {
    throw ShapeError(fmt::format("attention: bias has shape {}, expected [heads, tokens, tokens], {}",
                                 to_string(options.bias.shape()), to_string(Shape{heads, tokens, tokens})));
  }
  const Variable by_head = transpose(reshape(qkv, {batch, tokens, 3 * heads, head_width}), 1, 2);
  const auto part = [&](std::int64_t i) { return slice(by_head, 1, i * heads, (i + 1) * heads); };
  const Variable scores =
      add(scale(matmul(part(0), part(1), {.transpose_b = true}), 1 / std::sqrt(static_cast<double>(head_width))),
          options.bias);
  const Variable weights =
      options.valid.defined() ? masked_softmax(scores, options.valid.reshape({batch, 1, 1, tokens})) : softmax(scores);
  return reshape(transpose(matmul(weights, part(2)), 1, 2), {batch, tokens, width});
}

}  // namespace

Variable attention(const Variable& qkv, std::int64_t heads, const AttentionOptions& options) {
  constexpr const char* kOp = "attention";
  const OpScope scope(kOp);
  detail::require_operand(kOp, "qkv", qkv, 3);
  if (heads < 1) throw ValueError(fmt::format("{}: {} heads, expected at least 1", kOp, heads));
  if (qkv.rank() != 3 || qkv.size(2) % 3 != 0 || qkv.size(2) < heads || qkv.size(2) / 3 % heads != 0) {
    throw ShapeError(
        fmt::format("{}: qkv has shape {}, expected [batch, tokens, 3·width] with width a multiple of {} "
                    "heads",
                    kOp, to_string(qkv.shape()), heads));
  }
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1), width = qkv.size(2) / 3;
  if (options.valid.defined()) {
    detail::require_mask(kOp, "valid", options.valid, {batch, tokens}, qkv.device());
  }
  if (options.bias.defined()) return biased_attention(qkv, heads, options);
  const std::int64_t head_width = width / heads;
  const kernels::Attention layout{
      batch, tokens, heads, head_width, 1.0 / std::sqrt(static_cast<double>(head_width)), options.causal};
  const DType operand = detail::operand_type(qkv.value()), computed = detail::computed_type(operand);
  const Tensor input = detail::in_type(kOp, qkv.value(), operand);
  Tensor y = Tensor::empty({batch, tokens, width}, operand, qkv.device());
  Tensor logsumexp = Tensor::empty({batch, heads, tokens, 2}, computed, qkv.device());
  dispatch_any_floating(kOp, operand, [&]<class In>() {
    detail::call(kOp, qkv.device(), &AttentionKernels<In>::attention, layout, input, options.valid, y, logsumexp);
  });
  Tensor result = y.to(detail::result_type(operand, options.result));
  return record(kOp, std::move(result), {qkv}, {input, options.valid, y, logsumexp}, [=](Backward& ctx) {
    // P = exp(S - logsumexp); dV = Pᵀ dY; dS = P (dY Vᵀ - Σ dY Y); dQ = scale dS K; dK = scale dSᵀ Q
    const Tensor dy = detail::in_type(kOp, ctx.output_gradient(), operand);
    GradientTarget dqkv = ctx.gradient(0);
    const bool direct = dqkv.tensor.dtype() == operand;  // else it is added up in f32 by others
    Tensor to = direct ? dqkv.tensor : Tensor::empty(dqkv.tensor.shape(), operand, dqkv.tensor.device());
    dispatch_any_floating(kOp, operand, [&]<class In>() {
      detail::call(kOp, dy.device(), &AttentionKernels<In>::attention_backward, layout, ctx.saved(0), ctx.saved(1),
                   ctx.saved(2), ctx.saved(3), dy, to, direct ? detail::mode_of(dqkv) : kernels::Mode::kWrite);
    });
    if (direct) return;
    const Tensor wide = to.to(dqkv.tensor.dtype());
    if (dqkv.accumulate) dqkv.tensor.accumulate(wide);
    else dqkv.tensor.copy_from(wide);
  });
}

}  // namespace tapecache::ops
