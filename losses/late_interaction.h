#pragma once

#include "tapecache/autograd/variable.h"

#pragma GCC visibility push(hidden)

/// Scores of late interaction. Private to losses.
namespace tapecache::losses::detail {

/// 1 at the valid tokens and 0 at the others, of the type of `like`; undefined where the mask is.
Tensor token_marks(const Tensor& mask, const Variable& like);

/// [N, M]: Σ_t max_s q[i, t] · d[j, s] over valid tokens of queries [N, query tokens, width] and documents [M, document
/// tokens, width]. Marks are those of token_marks; every document has a valid token.
Variable late_interaction(const Variable& queries, const Tensor& query_marks, const Variable& documents,
                          const Tensor& document_marks);
/// [N]: the same of query i and document i.
Variable late_interaction_of_pairs(const Variable& queries, const Tensor& query_marks, const Variable& documents,
                                   const Tensor& document_marks);

}  // namespace tapecache::losses::detail

#pragma GCC visibility pop
