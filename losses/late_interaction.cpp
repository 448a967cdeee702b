#include "tapecache/losses/late_interaction.h"

#include "tapecache/losses/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses::detail {

namespace {

/// kExcluded at the tokens that are not valid, and 0 at the others.
Variable excluded_tokens(const Tensor& marks, const Variable& like) {
  return ops::add(ops::scale(marks, -kExcluded), constant_like(like, kExcluded));
}

}  // namespace

Tensor token_marks(const Tensor& mask, const Variable& like) {
  return mask.defined() ? mask.to(like.dtype()) : Tensor();
}

Variable late_interaction(const Variable& queries, const Tensor& query_marks, const Variable& documents,
                          const Tensor& document_marks) {
  const std::int64_t n = queries.size(0), m = documents.size(0), query_tokens = queries.size(1),
                     document_tokens = documents.size(1), width = queries.size(2);
  const Variable rows = ops::reshape(queries, {n * query_tokens, width});
  const Variable cols = ops::reshape(documents, {m * document_tokens, width});
  Variable similarities =
      ops::reshape(ops::matmul(rows, cols, {.transpose_b = true}), {n * query_tokens, m, document_tokens});
  if (document_marks.defined()) similarities = ops::add(similarities, excluded_tokens(document_marks, queries));
  Variable best = ops::reshape(ops::max(similarities, 2), {n, query_tokens, m});
  if (query_marks.defined()) best = ops::multiply(best, ops::reshape(query_marks, {n, query_tokens, 1}));
  return ops::sum(best, 1);
}

Variable late_interaction_of_pairs(const Variable& queries, const Tensor& query_marks, const Variable& documents,
                                   const Tensor& document_marks) {
  Variable similarities = ops::matmul(queries, documents, {.transpose_b = true});
  if (document_marks.defined()) {
    const Variable excluded = excluded_tokens(document_marks, queries);
    similarities = ops::add(similarities, ops::reshape(excluded, {documents.size(0), 1, documents.size(1)}));
  }
  Variable best = ops::max(similarities, 2);
  if (query_marks.defined()) best = ops::multiply(best, Variable(query_marks));
  return ops::sum(best, 1);
}

}  // namespace tapecache::losses::detail
