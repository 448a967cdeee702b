#include "tapecache/losses/contrastive_shared.h"

#include "tapecache/autograd/tape.h"
#include "tapecache/losses/checks.h"
#include "tapecache/losses/shared_alike.h"
#include "tapecache/losses/shared_pairs.h"
#include "tapecache/losses/shared_rows.h"
#include "tapecache/ops/checks.h"

namespace tapecache::losses::detail {

namespace {

using distributed::Communicator;

/// What is particular to a loss of queries and targets.
struct Contrast {
  SharedLoss loss;
  const char *queries, *targets;  // as messages call them
  RowLoss kind;
  Variable scale, bias = {};
  Weighting how = {};
  const ops::EqualTargets& equal;
  const Tiles& tiles;
  SharedCandidates candidates;
};

void check_sides(const Contrast& of, const Variable& queries, const Variable& targets) {
  const char* const loss = name(of.loss);
  require_rows_or_none(loss, queries, targets, of.queries, of.targets);
  ops::check_equal_targets(loss, of.equal, queries.size(0), targets.size(0));
  require_tiles(loss, of.tiles);
  require_candidates(loss, of.candidates);
}

std::vector<InCommon> in_common(const Contrast& of, const Variable& queries, const kernels::TileSizes& tile,
                                bool recorded) {
  return {of_loss(of.loss),
          of_type("type", queries.dtype()),
          whole("width", queries.size(1)),
          of_scalar("scale", of.scale),
          of_scalar("bias", of.bias),
          real("label_smoothing", of.how.label_smoothing),
          real("hardness", of.how.hardness),
          of_equal_targets(of.equal),
          whole("number of rows in a tile", tile.rows),
          whole("number of columns in a tile", tile.cols),
          of_candidates(of.candidates),
          of_recording(recorded)};
}

Variable contrast(Communicator& ranks, const Contrast& of, const Variable& queries, const Variable& targets) {
  check_sides(of, queries, targets);
  const char* const loss = name(of.loss);
  const kernels::TileSizes tile =
      ops::logit_tile(loss, of.tiles.value_or(ops::TileOptions{}), queries.dtype(), queries.device());
  const bool recorded = tapecache::detail::will_record({queries, targets, of.scale, of.bias});
  const Brought brought = bring(loss, ranks, in_common(of, queries, tile, recorded), queries.size(0), targets.size(0),
                                targets.has_history(), queries.device());
  const std::int64_t own = queries.size(0);
  const std::int64_t step = targets_of_each(loss, brought, of.queries, of.targets, of.kind == RowLoss::kSoftmax);
  const Shares of_queries(ranks, brought.queries), of_targets(ranks, brought.targets);
  Pairing pairing{.rows = 0, .candidates = 1, .outside = {{.step = step, .count = own}}};
  if (of.equal.some()) {
    const ops::RowsOf compared = of.kind == RowLoss::kSoftmax ? ops::RowsOf::kTargets : ops::RowsOf::kBoth;
    const ops::PairKeys keys =
        shared_pairs(ranks, of.equal, queries.value(), targets.value(), of_queries, of_targets, step, compared);
    pairing.left_out = [keys, dtype = queries.dtype()](const ops::PairBlock& b) {
      return ops::equal_pairs(keys, b, dtype);
    };
  }
  return shared_rows(ranks, {.loss = loss,
                             .kind = of.kind,
                             .how = of.how,
                             .sets = {queries, targets},
                             .shares = {of_queries, of_targets},
                             .pairings = {pairing},
                             .positives = positives_of(targets, own, step),
                             .scale = of.scale,
                             .bias = of.bias,
                             .ring = in_ring(ranks, of.candidates, brought, of_targets.total, targets),
                             .gradient = brought.gradient,
                             .tile = tile});
}

}  // namespace

Variable info_nce_shared(const Variable& queries, const Variable& targets, const InfoNceOptions& options) {
  const char* const loss = name(SharedLoss::kInfoNce);
  require_weighting(loss, options.label_smoothing, options.hardness, "queries", queries);
  return contrast(*options.communicator,
                  {.loss = SharedLoss::kInfoNce,
                   .queries = "queries",
                   .targets = "targets",
                   .kind = RowLoss::kSoftmax,
                   .scale = options.scale.factor(loss, queries),
                   .how = {options.label_smoothing, options.hardness},
                   .equal = options.equal_targets,
                   .tiles = options.tiles,
                   .candidates = options.candidates},
                  queries, targets);
}

Variable clip_loss_shared(const Variable& images, const Variable& texts, const ClipOptions& options) {
  const char* const loss = name(SharedLoss::kClip);
  require_weighting(loss, options.label_smoothing, options.hardness, "images", images);
  return contrast(*options.communicator,
                  {.loss = SharedLoss::kClip,
                   .queries = "images",
                   .targets = "texts",
                   .kind = RowLoss::kBothWays,
                   .scale = options.scale.factor(loss, images, ClipOptions::kMaxScale),
                   .how = {options.label_smoothing, options.hardness},
                   .equal = options.equal_targets,
                   .tiles = options.tiles,
                   .candidates = options.candidates},
                  images, texts);
}

Variable siglip_loss_shared(const Variable& images, const Variable& texts, const SiglipOptions& options) {
  const char* const loss = name(SharedLoss::kSiglip);
  ops::detail::require_floating(loss, "images", images);
  return contrast(*options.communicator,
                  {.loss = SharedLoss::kSiglip,
                   .queries = "images",
                   .targets = "texts",
                   .kind = RowLoss::kSigmoid,
                   .scale = options.scale.factor(loss, images),
                   .bias = options.bias.value(loss, "bias", images),
                   .equal = options.equal_targets,
                   .tiles = options.tiles,
                   .candidates = options.candidates},
                  images, texts);
}

}  // namespace tapecache::losses::detail
