#include "tapecache/ops/attention.h"

#include <cmath>

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/low_precision.h"

namespace tapecache::ops {

using kernels::KernelTable;

Variable attention(const Variable& qkv, std::int64_t heads, const AttentionOptions& options) {
  constexpr const char* kOp = "attention";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "qkv", qkv, 3);
  if (heads < 1) throw ValueError(fmt::format("{}: {} heads, expected at least 1", kOp, heads));
  if (qkv.rank() != 3 || qkv.size(2) % 3 != 0 || qkv.size(2) < heads ||
      qkv.size(2) / 3 % heads != 0) {
    throw ShapeError(fmt::format("{}: qkv has shape {}, expected [batch, tokens, 3·width] with width a multiple of {} "
                                 "heads", kOp, to_string(qkv.shape()), heads));
  }
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1), width = qkv.size(2) / 3;
  if (options.valid.defined()) {
    detail::require_mask(kOp, "valid", options.valid, {batch, tokens}, qkv.device());
  }
  const std::int64_t head_width = width / heads;
  const kernels::Attention layout{
      batch, tokens, heads, head_width, 1.0 / std::sqrt(static_cast<double>(head_width)), options.causal};
  Tensor y = Tensor::empty({batch, tokens, width}, qkv.dtype(), qkv.device());
  Tensor logsumexp = Tensor::empty({batch, heads, tokens}, qkv.dtype(), qkv.device());
  const Tensor operand = detail::operand_of(kOp, qkv.value());
  const bool low = operand.dtype() == DType::kBFloat16;
  const auto valid_of = [](const Tensor& valid) { return valid.defined() ? valid.data<bool>() : nullptr; };
  dispatch_floating(kOp, qkv.dtype(), [&]<class T>() {
    T *out = y.mutable_data<T>(), *sums = logsumexp.mutable_data<T>();
    if (low) {
      kernels::find(&KernelTable<T>::attention_bf16, kOp, qkv.device())(layout, operand.data<BFloat16>(),
                                                                        valid_of(options.valid), out, sums);
    } else {
      kernels::find(&KernelTable<T>::attention, kOp, qkv.device())(layout, operand.data<T>(), valid_of(options.valid),
                                                                   out, sums);
    }
  });
  const Tensor saved_y = detail::in_type_of(kOp, operand, y);
  return record(kOp, y, {qkv}, {operand, options.valid, saved_y, logsumexp}, [=](Backward& ctx) {
    // P = exp(S - logsumexp); dV = Pᵀ dY; dS = P (dY Vᵀ - Σ dY Y); dQ = scale dS K; dK = scale dSᵀ Q
    const Tensor& saved_qkv = ctx.saved(0);
    const Tensor dy = detail::in_type_of(kOp, saved_qkv, ctx.output_gradient());
    GradientTarget dqkv = ctx.gradient(0);
    dispatch_floating(kOp, ctx.output_gradient().dtype(), [&]<class T>() {
      const bool* valid = valid_of(ctx.saved(1));
      const T* sums = ctx.saved(3).data<T>();
      T* to = dqkv.tensor.mutable_data<T>();
      if (low) {
        kernels::find(&KernelTable<T>::attention_backward_bf16, kOp, dy.device())(
            layout, saved_qkv.data<BFloat16>(), valid, ctx.saved(2).data<BFloat16>(), sums, dy.data<BFloat16>(), to,
            detail::mode_of(dqkv));
      } else {
        kernels::find(&KernelTable<T>::attention_backward, kOp, dy.device())(
            layout, saved_qkv.data<T>(), valid, ctx.saved(2).data<T>(), sums, dy.data<T>(), to, detail::mode_of(dqkv));
      }
    });
  });
}

}  // namespace tapecache::ops
