#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/equal_targets.h"

/// Late interaction (Khattab & Zaharia 2020, "ColBERT"): a representation is one row for each token.
namespace tapecache::gradcache {

/// score[i, j] = Σ_t max_s q[i, t] · d[j, s] over the valid tokens t of query i and s of document j: queries
/// [N, query tokens, width], documents [M, document tokens, width], masks bool [N, query tokens] and [M, document
/// tokens], undefined where all are valid. Throws ShapeError, and ValueError naming a document without a valid token.
Variable maxsim_scores(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                       const Tensor& document_mask);

/// InfoNCE over scale · maxsim_scores, documents being the targets as in info_nce: M = N·(1+h). Documents that `equal` leaves
/// out are no candidates; equal_rows compares their valid tokens. Throws what info_nce throws of ids, too.
Variable maxsim_loss(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                     const Tensor& document_mask, const Variable& scale, const EqualTargets& equal = {});

}  // namespace tapecache::gradcache
