#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/losses/checks.h"
#include "tapecache/losses/contrastive_shared.h"
#include "tapecache/losses/late_interaction.h"
#include "tapecache/losses/shared_alike.h"
#include "tapecache/losses/shared_pairs.h"
#include "tapecache/losses/shared_rows.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/maxsim.h"

namespace tapecache::losses::detail {

namespace {

/// Σ_t max_s of rows [queries, query tokens, width] and candidates [documents, document tokens, width].
class LateInteraction final : public Similarity {
 public:
  /// What token_marks gives, of own queries, of the documents of all ranks, and of own queries' positives.
  LateInteraction(Tensor queries, Tensor documents, Tensor positives)
      : queries_(std::move(queries)), documents_(std::move(documents)), positives_(std::move(positives)) {}

  Tensor logits(const Part& rows, const Part& candidates, const Tensor& scale) const override {
    const Autocast none(DType::kFloat32);
    return (scores(rows, rows.rows, candidates, candidates.rows) * Variable(scale)).value();
  }

  void add_gradients(const Tensor& of_logits, const Part& rows, const Part& candidates, const Tensor& scale,
                     Tensor& of_rows, Tensor& of_candidates) const override {
    const auto [of_queries, of_documents] =
        gradients(rows.rows, candidates.rows, of_logits, of_candidates.defined(),
                  [&](const Variable& q, const Variable& d) { return scores(rows, q, candidates, d); });
    of_rows.accumulate(of_queries);
    if (of_candidates.defined()) of_candidates.accumulate((Variable(of_documents) * Variable(scale)).value());
  }

  Tensor scores_of_positives(const Part& rows, const Tensor& positives) const override {
    const Autocast none(DType::kFloat32);
    return scores_of_pairs(rows, rows.rows, positives).value().to(DType::kFloat64);
  }

  void add_gradients_of_positives(const Tensor& of_scores, const Part& rows, const Tensor& positives, Tensor of_rows,
                                  Tensor of_positives) const override {
    const auto [of_queries, of_documents] =
        gradients(rows.rows, positives, of_scores.to(positives.dtype()), of_positives.defined(),
                  [&](const Variable& q, const Variable& d) { return scores_of_pairs(rows, q, d); });
    if (of_rows.defined()) of_rows.accumulate(of_queries);
    if (of_positives.defined()) of_positives.accumulate(of_documents);
  }

 private:
  static Tensor of(const Tensor& marks, std::int64_t first, std::int64_t count) {
    return marks.defined() ? marks.slice(first, first + count) : Tensor();
  }
  Variable scores(const Part& rows, const Variable& q, const Part& candidates, const Variable& d) const {
    return late_interaction(q, of(queries_, rows.first, q.size(0)), d, of(documents_, candidates.first, d.size(0)));
  }
  Variable scores_of_pairs(const Part& rows, const Variable& q, const Variable& d) const {
    return late_interaction_of_pairs(q, of(queries_, rows.first, q.size(0)), d, of(positives_, rows.first, q.size(0)));
  }

  /// Of queries and, where they are wanted, of documents, for a gradient of their scores.
  template <class Scores>
  static std::pair<Tensor, Tensor> gradients(const Tensor& queries, const Tensor& documents, const Tensor& of_scores,
                                             bool of_documents, Scores scores) {
    const Autocast none(DType::kFloat32);
    Tape tape;
    const Variable q = tape.leaf(queries), d = of_documents ? tape.leaf(documents) : Variable(documents);
    Variable result;
    {
      const Recording recording(tape);
      result = scores(q, d);
    }
    tape.backward(std::array{result}, std::array{of_scores});
    return {tape.gradient(q), of_documents ? tape.gradient(d) : Tensor()};
  }

  Tensor queries_, documents_, positives_;
};

/// Tiles of the logits have as many similarities of tokens as those of other losses have logits.
kernels::TileSizes tile_of(const char* loss, const Tiles& tiles, const Variable& queries, const Variable& documents) {
  kernels::TileSizes own = ops::logit_tile(loss, {}, queries.dtype(), queries.device());
  own.rows = std::max<std::int64_t>(1, own.rows / queries.size(1));
  own.cols = std::max<std::int64_t>(1, own.cols / documents.size(1));
  return ops::detail::tile_sizes(loss, tiles.value_or(ops::TileOptions{}), own);
}

InCommon of_mask(const char* what, const Tensor& mask) { return named(what, mask.defined(), {"none", "one"}); }

}  // namespace

Variable maxsim_loss_shared(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                            const Tensor& document_mask, const MaxsimOptions& options) {
  const char* const loss = name(SharedLoss::kMaxsim);
  ops::check_maxsim(loss, queries, query_mask, documents, document_mask, false);
  ops::check_documents_have_tokens(loss, document_mask);
  ops::check_equal_targets(loss, options.equal_targets, queries.size(0), documents.size(0));
  require_tiles(loss, options.tiles);
  require_candidates(loss, options.candidates);
  distributed::Communicator& ranks = *options.communicator;
  const Variable scale = options.scale.factor(loss, queries);
  const kernels::TileSizes tile = tile_of(loss, options.tiles, queries, documents);
  const std::vector<InCommon> alike{of_loss(SharedLoss::kMaxsim),
                                    of_type("type", queries.dtype()),
                                    whole("width", queries.size(2)),
                                    whole("number of query tokens", queries.size(1)),
                                    whole("number of document tokens", documents.size(1)),
                                    of_mask("query_mask", query_mask),
                                    of_mask("document_mask", document_mask),
                                    of_scalar("scale", scale),
                                    of_equal_targets(options.equal_targets),
                                    whole("number of rows in a tile", tile.rows),
                                    whole("number of columns in a tile", tile.cols),
                                    of_candidates(options.candidates),
                                    of_recording(tapecache::detail::will_record({queries, documents, scale}))};
  const Brought brought =
      bring(loss, ranks, alike, queries.size(0), documents.size(0), documents.has_history(), queries.device());
  const std::int64_t own = queries.size(0);
  const std::int64_t step = targets_of_each(loss, brought, "queries", "documents", true);
  const Shares of_queries(ranks, brought.queries), of_documents(ranks, brought.targets);
  Pairing pairing{.rows = 0, .candidates = 1, .outside = {{.step = step, .count = own}}};
  if (options.equal_targets.some()) {
    const ops::PairKeys keys = shared_pairs(ranks, options.equal_targets, queries.value(), documents.value(),
                                            of_queries, of_documents, step, ops::RowsOf::kTargets, document_mask);
    pairing.left_out = [keys, dtype = queries.dtype()](const ops::PairBlock& b) {
      return ops::equal_pairs(keys, b, dtype);
    };
  }
  const Tensor marks = token_marks(document_mask, documents);
  Tensor of_all, of_positives;
  if (marks.defined()) {
    of_all = gather_rows(ranks, marks, of_documents);
    of_positives = positives_of(marks, own, step).value();
  }
  return shared_rows(
      ranks, {.loss = loss,
              .similarity = std::make_shared<LateInteraction>(token_marks(query_mask, queries), of_all, of_positives),
              .sets = {queries, documents},
              .shares = {of_queries, of_documents},
              .pairings = {pairing},
              .positives = positives_of(documents, own, step),
              .scale = scale,
              .ring = in_ring(ranks, options.candidates, brought, of_documents.total, documents),
              .gradient = brought.gradient,
              .tile = tile});
}

}  // namespace tapecache::losses::detail
