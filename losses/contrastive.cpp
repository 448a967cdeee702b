#include "tapecache/losses/losses.h"

#include <cmath>
#include <limits>

#include "tapecache/losses/checks.h"
#include "tapecache/losses/contrastive_shared.h"
#include "tapecache/losses/shared.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::losses {

using kernels::ContrastiveOp;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class Options>
void check_options(const char* loss, const Options& options, const char* argument, const Variable& x) {
  detail::require_weighting(loss, options.label_smoothing, options.hardness, argument, x);
  if (!options.tiles) return;
  detail::require_none_in_tiles(loss, "label_smoothing", options.label_smoothing);
  detail::require_none_in_tiles(loss, "hardness", options.hardness);
}

/// Checks the options about pairs of samples, which hold with and without tiles.
template <class Options>
void check_pairs(const char* loss, const Options& options, const Variable& queries, const Variable& targets) {
  ops::check_equal_targets(loss, options.equal_targets, queries.size(0), targets.size(0));
  detail::require_tiles(loss, options.tiles);
}

/// Adds log w to each negative logit z, where w = exp(β z) divided by the mean of exp(β z) over the row's negatives.
/// `excluded` is the result of `excluded_pairs`.
Variable with_hard_negatives(const Variable& logits, std::int64_t step, double beta, const Variable& excluded) {
  const std::int64_t rows = logits.size(0), cols = logits.size(1);
  if (beta == 0 || cols == 1) return logits;
  const Variable weighted = ops::scale(logits, beta);
  const Variable positives_out = detail::diagonal(logits, rows, cols, step, detail::kExcluded);
  const Variable total =
      ops::reshape(ops::logsumexp(detail::without(ops::add(weighted, positives_out), excluded), 1), {rows, 1});
  Variable negatives = ops::subtract(detail::constant_like(logits, 1), detail::diagonal(logits, rows, cols, step, 1));
  Variable log_count = detail::constant_like(logits, std::log(static_cast<double>(cols - 1)));
  if (excluded.defined()) {
    negatives = ops::subtract(negatives, excluded);
    // A row without negatives has nothing to weight; 1 keeps its logarithm finite.
    log_count = ops::log(ops::clamp(ops::reshape(ops::sum(negatives, 1), {rows, 1}), 1, kInfinity));
  }
  const Variable mean = ops::subtract(total, log_count);
  return ops::add(logits, ops::multiply(ops::subtract(weighted, mean), negatives));
}

/// Takes the mean of each row over its candidates, and the mean of these over the rows.
Variable mean_of_candidates(const Variable& x, const Variable& excluded) {
  if (!excluded.defined()) return ops::mean(x);
  const Variable candidates = ops::subtract(detail::constant_like(x, 1), excluded);
  return ops::mean(ops::divide(ops::sum(ops::multiply(x, candidates), 1), ops::sum(candidates, 1)));
}

/// The mean cross-entropy of rows; the positive of row i is column i · step.
template <class Options>
Variable contrast(const Variable& logits, std::int64_t step, const Options& options, const Variable& excluded) {
  const Variable all = with_hard_negatives(logits, step, options.hardness, excluded);
  const Variable candidates = detail::without(all, excluded);
  Variable plain = ops::cross_entropy(candidates, detail::arange(step, candidates.size(0)));
  if (options.label_smoothing == 0) return plain;
  // -(1 - ε) log p₊ - ε mean(log p). The mean of log p is taken, not logsumexp - mean(z), which would lose digits if
  // the logits are large.
  const Variable uniform = mean_of_candidates(ops::log_softmax(candidates), excluded);
  return ops::subtract(ops::scale(plain, 1 - options.label_smoothing), ops::scale(uniform, options.label_smoothing));
}

}  // namespace

Variable info_nce(const Variable& queries, const Variable& targets, const InfoNceOptions& options) {
  constexpr const char* kLoss = "info_nce";
  if (options.communicator) {
    return detail::take_shared(*options.communicator,
                               [&] { return detail::info_nce_shared(queries, targets, options); });
  }
  detail::require_candidates(kLoss, options.candidates);
  detail::require_rows(kLoss, queries, targets, "queries", "targets");
  const std::int64_t step = detail::require_multiple(kLoss, "targets", targets.size(0), queries.size(0));
  check_options(kLoss, options, "queries", queries);
  check_pairs(kLoss, options, queries, targets);
  const Variable scale = options.scale.factor(kLoss, queries);
  if (options.tiles) {
    return ops::contrastive_loss(ContrastiveOp::kRows, queries, targets, scale, {}, *options.tiles,
                                 options.equal_targets);
  }
  const Variable excluded =
      detail::excluded_pairs(kLoss, options.equal_targets, queries, targets, ops::RowsOf::kTargets);
  return contrast(detail::scaled_logits(queries, targets, scale), step, options, excluded);
}

Variable clip_loss(const Variable& images, const Variable& texts, const ClipOptions& options) {
  constexpr const char* kLoss = "clip_loss";
  if (options.communicator) {
    return detail::take_shared(*options.communicator, [&] { return detail::clip_loss_shared(images, texts, options); });
  }
  detail::require_candidates(kLoss, options.candidates);
  detail::require_pairs(kLoss, images, texts, "images", "texts");
  check_options(kLoss, options, "images", images);
  check_pairs(kLoss, options, images, texts);
  const Variable scale = options.scale.factor(kLoss, images, ClipOptions::kMaxScale);
  if (options.tiles) {
    return ops::contrastive_loss(ContrastiveOp::kRowsAndColumns, images, texts, scale, {}, *options.tiles,
                                 options.equal_targets);
  }
  const Variable excluded = detail::excluded_pairs(kLoss, options.equal_targets, images, texts, ops::RowsOf::kBoth);
  const Variable logits = detail::scaled_logits(images, texts, scale);
  const Variable image_to_text = contrast(logits, 1, options, excluded);
  const Variable text_to_image = contrast(ops::transpose(logits, 0, 1), 1, options, excluded);
  return ops::scale(ops::add(image_to_text, text_to_image), 0.5);
}

Variable siglip_loss(const Variable& images, const Variable& texts, const SiglipOptions& options) {
  constexpr const char* kLoss = "siglip_loss";
  if (options.communicator) {
    return detail::take_shared(*options.communicator,
                               [&] { return detail::siglip_loss_shared(images, texts, options); });
  }
  detail::require_candidates(kLoss, options.candidates);
  detail::require_pairs(kLoss, images, texts, "images", "texts");
  check_pairs(kLoss, options, images, texts);
  const Variable scale = options.scale.factor(kLoss, images);
  const Variable bias = options.bias.value(kLoss, "bias", images);
  if (options.tiles) {
    return ops::contrastive_loss(ContrastiveOp::kSigmoid, images, texts, scale, bias, *options.tiles,
                                 options.equal_targets);
  }
  const std::int64_t n = images.size(0);
  // The sign is -z, since softplus(-z · logit) = -log σ(z · logit).
  const Variable sign = ops::add(detail::constant_like(images, 1), detail::diagonal(images, n, n, 1, -2));
  const Variable logits = ops::add(detail::scaled_logits(images, texts, scale), bias);
  const Variable excluded = detail::excluded_pairs(kLoss, options.equal_targets, images, texts, ops::RowsOf::kBoth);
  // Summed row by row: one f32 sum over N² terms would lose digits.
  const Variable rows = ops::sum(ops::softplus(detail::without(ops::multiply(logits, sign), excluded)), 1);
  return ops::scale(ops::sum(rows), 1.0 / static_cast<double>(n));
}

void clamp_log_scale(Parameter& log_scale) {
  const Variable value = log_scale.defined() ? Variable(log_scale.value()) : Variable();
  ops::detail::require_scalar_like("clamp_log_scale", "log_scale", value, value);
  ops::detail::require_floating("clamp_log_scale", "log_scale", value);
  const Variable clamped = ops::clamp(value, -kInfinity, std::log(ClipOptions::kMaxScale));
  log_scale.mutable_value().copy_from(clamped.value());
}

}  // namespace tapecache::losses
