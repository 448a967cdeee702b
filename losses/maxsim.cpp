#include "tapecache/ops/maxsim.h"
#include "tapecache/losses/checks.h"
#include "tapecache/losses/contrastive_shared.h"
#include "tapecache/losses/late_interaction.h"
#include "tapecache/losses/losses.h"
#include "tapecache/losses/shared.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses {

namespace {

/// Of what check_maxsim has let pass.
Variable scores_of(const char* loss, const Variable& queries, const Tensor& query_mask, const Variable& documents,
                   const Tensor& document_mask) {
  ops::check_documents_have_tokens(loss, document_mask);
  return detail::late_interaction(queries, detail::token_marks(query_mask, queries), documents,
                                  detail::token_marks(document_mask, queries));
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
  if (options.communicator) {
    return detail::take_shared(*options.communicator, [&] {
      return detail::maxsim_loss_shared(queries, query_mask, documents, document_mask, options);
    });
  }
  ops::check_maxsim(kLoss, queries, query_mask, documents, document_mask);
  const std::int64_t step = detail::require_multiple(kLoss, "documents", documents.size(0), queries.size(0));
  ops::check_equal_targets(kLoss, options.equal_targets, queries.size(0), documents.size(0));
  detail::require_tiles(kLoss, options.tiles);
  detail::require_candidates(kLoss, options.candidates);
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
