#include "tapecache/ops/contrastive.h"

#include <algorithm>

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::Contrastive;
using kernels::ContrastiveKernels;
using kernels::ContrastiveOp;
using kernels::Mode;
using kernels::TileSizes;

namespace {

constexpr const char* kOp = "contrastive_loss";

void check_operands(ContrastiveOp op, const Variable& a, const Variable& b) {
  detail::require_floating(kOp, "a", a);
  detail::require_alike(kOp, "a", a, "b", b);
  const bool fits = a.rank() == 2 && b.rank() == 2 && a.size(1) == b.size(1) && a.numel() > 0 && b.numel() > 0 &&
                    b.size(0) % a.size(0) == 0 && (op == ContrastiveOp::kRows || a.size(0) == b.size(0));
  if (!fits) {
    throw ShapeError(fmt::format(
        "{}: a is {} and b {}, expected [rows, width] and [columns, width], with {}", kOp, describe(a.value()),
        describe(b.value()), op == ContrastiveOp::kRows ? "columns a multiple of rows" : "as many columns as rows"));
  }
}

Contrastive layout(ContrastiveOp op, const Variable& a, const Variable& b, const TileOptions& tile) {
  TileSizes own;
  dispatch_floating(kOp, a.dtype(), [&]<class T>() {
    own = kernels::find(&ContrastiveKernels<T>::contrastive_tile, kOp, a.device())();
  });
  const TileSizes sizes = detail::tile_sizes(kOp, tile, own);
  return {op,
          a.size(0),
          b.size(0),
          a.size(1),
          b.size(0) / a.size(0),
          std::min(sizes.rows, a.size(0)),
          std::min(sizes.cols, b.size(0))};
}

struct Buffers {
  Tensor workspace, partials;
};

template <class T>
Buffers buffers_for(const Contrastive& c, Device device) {
  const std::int64_t size = kernels::find(&ContrastiveKernels<T>::contrastive_workspace, kOp, device)(c);
  return {Tensor::empty({size}, dtype_of<T>(), device), Tensor::empty({c.partials()}, DType::kFloat64, device)};
}

}  // namespace

TileSizes detail::tile_sizes(const char* op, const TileOptions& tile, const TileSizes& own) {
  const TileSizes sizes{tile.rows.value_or(own.rows), tile.columns.value_or(own.cols)};
  if (sizes.rows < 1 || sizes.cols < 1) {
    throw ValueError(fmt::format("{}: tiles of {} by {}, expected at least 1 by 1", op, sizes.rows, sizes.cols));
  }
  return sizes;
}

Variable contrastive_loss(ContrastiveOp op, const Variable& a, const Variable& b, const Variable& scale,
                          const Variable& bias, const TileOptions& tile, const EqualTargets& equal) {
  const OpScope scope(kOp);
  check_operands(op, a, b);
  Contrastive c = layout(op, a, b, tile);
  const PairIds ids =
      pair_ids(kOp, equal, a.value(), b.value(), op == ContrastiveOp::kRows ? RowsOf::kTargets : RowsOf::kBoth);
  c.equal = ids.pairs(c.step);
  detail::require_scalar_like(kOp, "scale", scale, a);
  const bool sigmoid = op == ContrastiveOp::kSigmoid;
  if (sigmoid) detail::require_scalar_like(kOp, "bias", bias, a);
  else if (bias.defined()) {
    throw ValueError(fmt::format("{}: bias is {}, expected none but with kSigmoid", kOp, describe(bias.value())));
  }
  const Variable offset = sigmoid ? bias : Variable(Tensor::zeros({}, a.dtype(), a.device()));
  Tensor rows = Tensor::empty({c.rows}, DType::kFloat64, a.device());
  Tensor cols = Tensor::empty({c.cols}, DType::kFloat64, a.device());
  Tensor loss = Tensor::empty({}, a.dtype(), a.device());
  dispatch_floating(kOp, a.dtype(), [&]<class T>() {
    Buffers buffers = buffers_for<T>(c, a.device());
    detail::call(kOp, a.device(), &ContrastiveKernels<T>::contrastive, c, a, b, scale, offset, rows, cols, loss,
                 buffers.workspace, buffers.partials);
  });
  return record(kOp, std::move(loss), {a, b, scale, offset},
                {a.value(), b.value(), scale.value(), offset.value(), rows, cols, ids.queries, ids.targets},
                [c](Backward& ctx) {
                  Contrastive here = c;
                  here.equal = PairIds{ctx.saved(6), ctx.saved(7)}.pairs(c.step);  // saved tensors may have moved
                  // dA = scale dZ B; dB = scale dZᵀ A; dscale = Σ dZ (A Bᵀ); dbias = Σ dZ
                  const Tensor &left = ctx.saved(0), &right = ctx.saved(1);
                  GradientTarget da, db;
                  if (ctx.needs(0)) da = ctx.gradient(0);
                  if (ctx.needs(1)) db = ctx.gradient(1);
                  // Both operands may be one variable: then the kernel's two gradients are two tensors all the same.
                  const bool shared = da.tensor.defined() && db.tensor.defined() && da.tensor.shares_storage(db.tensor);
                  GradientTarget db_alone =
                      shared ? GradientTarget{Tensor::empty(right.shape(), right.dtype(), right.device()), false} : db;
                  Tensor dscale = Tensor::empty(ctx.input_shape(2), left.dtype(), left.device());
                  Tensor dbias = Tensor::empty(ctx.input_shape(3), left.dtype(), left.device());
                  dispatch_floating(kOp, left.dtype(), [&]<class T>() {
                    Buffers buffers = buffers_for<T>(c, left.device());
                    detail::call(kOp, left.device(), &ContrastiveKernels<T>::contrastive_backward, here, left, right,
                                 ctx.saved(2), ctx.saved(3), ctx.saved(4), ctx.saved(5), ctx.output_gradient(), da, da,
                                 db_alone, db_alone, dscale, dbias, buffers.workspace, buffers.partials);
                  });
                  if (shared) db.tensor.accumulate(db_alone.tensor);
                  if (ctx.needs(2)) ctx.pass(2, dscale);
                  if (ctx.needs(3)) ctx.pass(3, dbias);
                });
}

}  // namespace tapecache::ops
