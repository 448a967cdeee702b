#include "tapecache/ops/attention.h"

#include <cmath>

#include <fmt/format.h>

#include "tapecache/core/element.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/low_precision.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::ops {

using kernels::AttentionKernels;

namespace {

/// Attention with a bias of the scores, put together of other ops; it holds all scores.
Variable biased_attention(const Variable& qkv, std::int64_t heads, const AttentionOptions& options) {
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1), width = qkv.size(2) / 3, head_width = width / heads;
  if (options.causal) throw ValueError("attention: causal beside a bias, expected one of the two");
  if (options.window) throw ValueError("attention: a window beside a bias, expected one of the two");
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

/// The number of heads of keys and values that the options ask for. Throws if qkv cannot consist of these heads.
std::int64_t checked_kv_heads(const char* op, const Variable& qkv, std::int64_t heads,
                              const AttentionOptions& options) {
  const std::int64_t kv_heads = options.kv_heads == 0 ? heads : options.kv_heads;
  if (kv_heads < 1 || heads % kv_heads != 0) {
    throw ValueError(fmt::format("{}: kv_heads is {}, expected a divisor of {} heads", op, kv_heads, heads));
  }
  if (options.bias.defined() && kv_heads != heads) {
    throw ValueError(
        fmt::format("{}: kv_heads is {} beside a bias, expected as many as heads, {}", op, kv_heads, heads));
  }
  if (options.window && *options.window < 0) {
    throw ValueError(fmt::format("{}: window is {}, expected at least 0", op, *options.window));
  }
  const bool has_room = qkv.rank() == 3 && heads <= qkv.size(2);  // so that the sum below does not overflow
  if (const std::int64_t all = has_room ? heads + 2 * kv_heads : 0;
      all > 0 && qkv.size(2) % all == 0 && qkv.size(2) > 0) {
    return kv_heads;
  }
  const std::string found = to_string(qkv.shape());
  if (kv_heads == heads) {
    throw ShapeError(
        fmt::format("{}: qkv has shape {}, expected [batch, tokens, 3·width] with width a multiple of {} "
                    "heads",
                    op, found, heads));
  }
  throw ShapeError(
      fmt::format("{}: qkv has shape {}, expected [batch, tokens, features] with features a multiple of {} "
                  "heads and 2 · {} of keys and values",
                  op, found, heads, kv_heads));
}

}  // namespace

Variable attention(const Variable& qkv, std::int64_t heads, const AttentionOptions& options) {
  constexpr const char* kOp = "attention";
  const OpScope scope(kOp);
  detail::require_operand(kOp, "qkv", qkv, 3);
  if (heads < 1) throw ValueError(fmt::format("{}: {} heads, expected at least 1", kOp, heads));
  const std::int64_t kv_heads = checked_kv_heads(kOp, qkv, heads, options);
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1);
  const std::int64_t head_width = qkv.size(2) / (heads + 2 * kv_heads), width = heads * head_width;
  if (options.valid.defined()) {
    detail::require_mask(kOp, "valid", options.valid, {batch, tokens}, qkv.device());
  }
  if (options.bias.defined()) return biased_attention(qkv, heads, options);
  const bool has_window = options.window && *options.window < tokens - 1;
  const kernels::Attention layout{.batch = batch,
                                  .tokens = tokens,
                                  .heads = heads,
                                  .width = head_width,
                                  .scale = 1.0 / std::sqrt(static_cast<double>(head_width)),
                                  .causal = options.causal,
                                  .group = heads / kv_heads,
                                  .window = has_window ? *options.window : kernels::Attention::kNoWindow};
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
    detail::write_gradient(ctx.gradient(0), operand, [&](Tensor& dqkv, kernels::Mode mode) {
      dispatch_any_floating(kOp, operand, [&]<class In>() {
        detail::call(kOp, dy.device(), &AttentionKernels<In>::attention_backward, layout, ctx.saved(0), ctx.saved(1),
                     ctx.saved(2), ctx.saved(3), dy, dqkv, mode);
      });
    });
  });
}

}  // namespace tapecache::ops
