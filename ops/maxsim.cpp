#include "tapecache/ops/maxsim.h"

#include <algorithm>

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::MaxSim;
using kernels::MaxSimKernels;

namespace {

constexpr const char* kOp = "maxsim_loss";

struct Buffers {
  Tensor workspace, best, partials;
  Buffers(const MaxSim& m, DType dtype, Device device)
      : workspace(Tensor::empty({m.workspace()}, dtype, device)),
        best(Tensor::empty({m.best()}, DType::kInt32, device)),
        partials(Tensor::empty({m.partials()}, DType::kFloat64, device)) {}
};

}  // namespace

void check_maxsim(const char* op, const Variable& queries, const Tensor& query_mask, const Variable& documents,
                  const Tensor& document_mask, bool some) {
  detail::require_floating(op, "queries", queries);
  detail::require_alike(op, "queries", queries, "documents", documents);
  const auto fits = [some](const Variable& x) {
    return x.rank() == 3 && x.size(1) > 0 && x.size(2) > 0 && (x.size(0) > 0 || !some);
  };
  if (!fits(queries) || !fits(documents) || queries.size(2) != documents.size(2)) {
    throw ShapeError(fmt::format("{}: queries are {} and documents {}, expected [batch, tokens, width] of one width{}",
                                 op, describe(queries.value()), describe(documents.value()),
                                 some ? ", none empty" : ""));
  }
  if (query_mask.defined()) {
    detail::require_mask(op, "query_mask", query_mask, {queries.size(0), queries.size(1)}, queries.device());
  }
  if (!document_mask.defined()) return;
  detail::require_mask(op, "document_mask", document_mask, {documents.size(0), documents.size(1)}, documents.device());
}

void check_documents_have_tokens(const char* op, const Tensor& document_mask) {
  if (!document_mask.defined()) return;
  require_true_in_each_row(document_mask, {fmt::format("{}: document {{position}} has no valid token", op)});
}

Variable maxsim_loss(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                     const Tensor& document_mask, const Variable& scale, const TileOptions& tile,
                     const EqualTargets& equal) {
  const OpScope scope(kOp);
  check_maxsim(kOp, queries, query_mask, documents, document_mask);
  check_documents_have_tokens(kOp, document_mask);
  if (documents.size(0) % queries.size(0) != 0) {
    throw ShapeError(
        fmt::format("{}: {} documents for {} queries, expected a multiple", kOp, documents.size(0), queries.size(0)));
  }
  detail::require_scalar_like(kOp, "scale", scale, queries);
  MaxSim m{queries.size(0),   documents.size(0), queries.size(1),
           documents.size(1), queries.size(2),   documents.size(0) / queries.size(0)};
  dispatch_floating(kOp, queries.dtype(), [&]<class T>() {
    const kernels::TileSizes own = kernels::find(&MaxSimKernels<T>::maxsim_tile, kOp, queries.device())(m);
    const kernels::TileSizes sizes = detail::tile_sizes(kOp, tile, own);
    m.tile_rows = std::min(sizes.rows, m.queries);
    m.tile_cols = std::min(sizes.cols, m.documents);
  });
  const PairIds ids = pair_ids(kOp, equal, queries.value(), documents.value(), RowsOf::kTargets, document_mask);
  m.equal = ids.pairs(m.step);
  Tensor logsumexp = Tensor::empty({m.queries}, DType::kFloat64, queries.device());
  Tensor loss = Tensor::empty({}, queries.dtype(), queries.device());
  dispatch_floating(kOp, queries.dtype(), [&]<class T>() {
    Buffers buffers(m, queries.dtype(), queries.device());
    detail::call(kOp, queries.device(), &MaxSimKernels<T>::maxsim, m, queries, query_mask, documents, document_mask,
                 scale, logsumexp, loss, buffers.workspace, buffers.best, buffers.partials);
  });
  return record(
      kOp, std::move(loss), {queries, documents, scale},
      {queries.value(), query_mask, documents.value(), document_mask, scale.value(), logsumexp, ids.queries,
       ids.targets},
      [m](Backward& ctx) {
        MaxSim here = m;
        here.equal = PairIds{ctx.saved(6), ctx.saved(7)}.pairs(m.step);  // saved tensors may have moved
        // With dz = softmax - onehot: dq[i, t] = scale Σ_j dz[i, j] d[j, best]; dd[j, best] += scale dz[i, j] q[i, t];
        // dscale = Σ dz score
        const Tensor &q = ctx.saved(0), &d = ctx.saved(2);
        GradientTarget dq, dd;
        if (ctx.needs(0)) dq = ctx.gradient(0);
        if (ctx.needs(1)) dd = ctx.gradient(1);
        const bool shared = dq.tensor.defined() && dd.tensor.defined() && dq.tensor.shares_storage(dd.tensor);
        GradientTarget dd_alone = shared ? GradientTarget{Tensor::empty(d.shape(), d.dtype(), d.device()), false} : dd;
        Tensor dscale = Tensor::empty(ctx.input_shape(2), q.dtype(), q.device());
        dispatch_floating(kOp, q.dtype(), [&]<class T>() {
          Buffers buffers(m, q.dtype(), q.device());
          detail::call(kOp, q.device(), &MaxSimKernels<T>::maxsim_backward, here, q, ctx.saved(1), d, ctx.saved(3),
                       ctx.saved(4), ctx.saved(5), ctx.output_gradient(), dq, dq, dd_alone, dd_alone, dscale,
                       buffers.workspace, buffers.best, buffers.partials);
        });
        if (shared) dd.tensor.accumulate(dd_alone.tensor);
        if (ctx.needs(2)) ctx.pass(2, dscale);
      });
}

}  // namespace tapecache::ops
