#include "tapecache/ops/maxsim.h"
#include "tapecache/losses/checks.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses {

namespace {

/// `where_false` at the invalid tokens, `where_true` at the others.
Variable as_numbers(const Tensor& mask, double where_true, double where_false, const Variable& like) {
  const Variable marks(mask.to(like.dtype()));
  return ops::add(ops::scale(marks, where_true - where_false), detail::constant_like(like, where_false));
}

/// Of what check_maxsim has let pass.
Variable scores_of(const char* loss, const Variable& queries, const Tensor& query_mask, const Variable& documents,
                   const Tensor& document_mask) {
  ops::check_documents_have_tokens(loss, document_mask);
  const std::int64_t n = queries.size(0), m = documents.size(0), query_tokens = queries.size(1),
                     document_tokens = documents.size(1), width = queries.size(2);
  const Variable rows = ops::reshape(queries, {n * query_tokens, width});
  const Variable cols = ops::reshape(documents, {m * document_tokens, width});
  Variable similarities =
      ops::reshape(ops::matmul(rows, cols, {.transpose_b = true}), {n * query_tokens, m, document_tokens});
  if (document_mask.defined()) {
    similarities = ops::add(similarities, as_numbers(document_mask, 0, detail::kExcluded, queries));
  }
  Variable best = ops::reshape(ops::max(similarities, 2), {n, query_tokens, m});
  if (query_mask.defined()) {
    best = ops::multiply(best, ops::reshape(as_numbers(query_mask, 1, 0, queries), {n, query_tokens, 1}));
  }
  return ops::sum(best, 1);
}

}  // namespace

Variable maxsim_scores(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                       const Tensor& document_mask) {
  ops::check_maxsim("maxsim_scores", queries, query_mask, documents, document_mask);
  return scores_of("maxsim_scores", queries, query_mask, documents, document_mask);
}

Variable maxsim_loss(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                     const Tensor& document_mask, const MaxsimOptions& options) {
  constexpr const char* kLoss = "maxsim_loss";
  ops::check_maxsim(kLoss, queries, query_mask, documents, document_mask);
  const std::int64_t step = detail::require_multiple(kLoss, "documents", documents.size(0), queries.size(0));
  ops::check_equal_targets(kLoss, options.equal_targets, queries.size(0), documents.size(0));
  detail::require_tiles(kLoss, options.tiles);
  const Variable scale = options.scale.factor(kLoss, queries);
  if (options.tiles) {
    return ops::maxsim_loss(queries, query_mask, documents, document_mask, scale, *options.tiles,
                            options.equal_targets);
  }
  const Variable scores = scores_of(kLoss, queries, query_mask, documents, document_mask);
  const Variable excluded =
      detail::excluded_pairs(kLoss, options.equal_targets, queries, documents, ops::RowsOf::kTargets, document_mask);
  return ops::cross_entropy(detail::without(ops::multiply(scores, scale), excluded),
                            detail::arange(step, scores.size(0)));
}

}  // namespace tapecache::losses
