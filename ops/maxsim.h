#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/ops/contrastive.h"

#pragma GCC visibility push(hidden)

namespace tapecache::ops {

/// InfoNCE over late-interaction scores (Khattab & Zaharia 2020): score[i, j] = Σ_t max_s q[i, t] · d[j, s] over valid
/// tokens; mean over the queries of -log softmax(scale · score[i])[i · M / N]. Queries [N, query tokens, width],
/// documents [M, document tokens, width] with M a multiple of N; masks bool [N, query tokens] and [M, document tokens],
/// undefined where all are valid; `scale` a scalar. Neither similarities nor scores are in memory beyond a group of
/// tiles, whose sizes count queries and documents, each of many tokens. Of several best tokens the first receives the
/// gradient. Documents that `equal` leaves out are no candidates; equal_rows compares their valid tokens.
/// Throws ShapeError, DTypeError, ValueError for what is undefined, a tile below 1 or a document without a valid token,
/// and what pair_ids throws.
Variable maxsim_loss(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                     const Tensor& document_mask, const Variable& scale, const TileOptions& tile = {},
                     const EqualTargets& equal = {});

/// What all forms of the loss demand of their arguments, whatever the masks hold. `some`: there is a query and a
/// document.
void check_maxsim(const char* op, const Variable& queries, const Tensor& query_mask, const Variable& documents,
                  const Tensor& document_mask, bool some = true);
/// ValueError for a document without a valid token, as value_checks.h says.
void check_documents_have_tokens(const char* op, const Tensor& document_mask);

}  // namespace tapecache::ops

#pragma GCC visibility pop
