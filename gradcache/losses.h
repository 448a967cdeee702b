#pragma once

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/equal_targets.h"

namespace tapecache::gradcache {

struct ContrastiveOptions {
  /// Share of each target's probability that is spread evenly over all candidates (Szegedy et al. 2016, "Rethinking the
  /// Inception architecture"), in [0, 1).
  double label_smoothing = 0;
  /// β of Robinson et al. 2021, "Contrastive learning with hard negative samples": each negative j of row i counts
  /// exp(β zᵢⱼ) over the mean of that over the row's negatives, weights that the gradient passes through. At least 0.
  double hardness = 0;
  /// Which targets are no negatives, being equal to a query's positive: neither the denominator, nor the candidates that
  /// smoothing is spread over, nor the mean that hardness takes has them.
  EqualTargets equal_targets = {};
};

/// InfoNCE in one direction (van den Oord et al. 2018; with hard negatives as in Karpukhin et al. 2020): queries
/// [M, width], targets [M·(1+h), width], where row i·(1+h) is the positive of query i and the h rows after it are its
/// hard negatives. Every query is scored against all targets: mean of -log softmax(scale · q tᵀ). Representations are
/// used as given; normalise them for cosine similarity. Throws ShapeError where the rows are no such multiple or ids do not
/// fit, ValueError for options outside their range.
Variable info_nce(const Variable& queries, const Variable& targets, const Variable& scale,
                  const ContrastiveOptions& options = {});
Variable info_nce(const Variable& queries, const Variable& targets, double scale = 20.0,
                  const ContrastiveOptions& options = {});

/// The largest factor that CLIP's logits are scaled by.
inline constexpr double kMaxLogitScale = 100.0;

/// CLIP's symmetric loss (Radford et al. 2021): images and texts [N, width], log_scale a scalar, the logarithm of the
/// inverse temperature, clamped so that the scale stays at most 100. Mean of both directions' cross-entropies.
/// Images are queries to equal_targets and texts targets: what it leaves out is left out in both directions, as pairs with one
/// image or one text match each other's.
/// Throws ShapeError where the numbers of rows differ or ids do not fit, ValueError for options outside their range.
Variable clip_loss(const Variable& images, const Variable& texts, const Variable& log_scale,
                   const ContrastiveOptions& options = {});

/// SigLIP's loss (Zhai et al. 2023): every pair is a binary problem; -1/N Σ_ij log σ(z_ij (scale x_i·y_j + bias)),
/// z = 1 on the diagonal and -1 off it. log_scale and bias are scalars. Pairs that `equal` leaves out, as in clip_loss, are no
/// terms of the sum. Throws ShapeError and ValueError as clip_loss.
Variable siglip_loss(const Variable& images, const Variable& texts, const Variable& log_scale, const Variable& bias,
                     const EqualTargets& equal = {});

/// Brings a log_scale parameter back to at most log(100), as CLIP's training does after every optimiser step: beyond
/// the clamp the loss gives it no gradient.
void clamp_log_scale(Parameter& log_scale);

}  // namespace tapecache::gradcache
