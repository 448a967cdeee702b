#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/losses/scale.h"
#include "tapecache/ops/contrastive_options.h"

/// Contrastive losses, functions of representations [rows, width] that return a scalar. Each takes its settings in a
/// struct:
///
///     losses::info_nce(queries, targets, {.scale = 30, .label_smoothing = 0.1})
///
/// A scale that is trained is a Parameter or a Variable (`Scale`). All throw ShapeError, DTypeError or DeviceError
/// where arguments do not fit each other, and ValueError for what is undefined, options outside their range or not
/// finite, or ids beside equal_rows; and the same with tiles and without.
namespace tapecache::distributed {
class Communicator;
}

namespace tapecache::losses {

using ops::EqualTargets;
using ops::TileOptions;

/// With tiles a loss never has all its logits in memory: forward and backward compute a few tiles of them at a time
/// (Cheng et al. 2024, "Breaking the memory barrier: near infinite batch size scaling for contrastive loss"). The
/// result differs in rounding alone. `TileOptions{}`, or `{{}}`, are tiles as the device works best, `std::nullopt` is
/// none; `{}` alone, which could be taken for either, does not compile. Options that need a whole row of logits are
/// refused beside tiles, with a ValueError that names them, and so are tiles below 1.
class Tiles : public std::optional<TileOptions> {
 public:
  explicit Tiles() = default;
  Tiles(std::nullopt_t) {}
  Tiles(TileOptions tiles) : optional(tiles) {}
};

struct InfoNceOptions {
  Scale scale = 20;
  /// Share of each target's probability that is spread evenly over all candidates (Szegedy et al. 2016, "Rethinking the
  /// Inception architecture"), in [0, 1). Not in tiles.
  double label_smoothing = 0;
  /// β of Robinson et al. 2021, "Contrastive learning with hard negative samples": each negative j of row i counts
  /// exp(β zᵢⱼ) over the mean of that over the row's negatives, weights that the gradient passes through. At least 0.
  /// Not in tiles.
  double hardness = 0;
  /// Which targets are no negatives, being equal to a query's positive: neither the denominator, nor the candidates
  /// that smoothing is spread over, nor the mean that hardness takes has them.
  EqualTargets equal_targets = {};
  Tiles tiles = std::nullopt;
  /// For a step with `StepOptions::shared_loss`: queries and targets are this rank's own, even none, each query's with
  /// it; the loss is that over those of all ranks, of which each computes its own queries' rows of the logits. Targets
  /// are gathered, and their gradients handed back. What fails here on one rank ends the group. Beside it there are no
  /// label smoothing, hardness, equal targets or tiles.
  distributed::Communicator* communicator = nullptr;
};

/// InfoNCE in one direction (van den Oord et al. 2018; with hard negatives as in Karpukhin et al. 2020): queries
/// [M, width], targets [M·(1+h), width], where row i·(1+h) is the positive of query i and the h rows after it are its
/// hard negatives. Every query is scored against all targets: mean of -log softmax(scale · q tᵀ). Representations are
/// used as given; normalise them for cosine similarity.
Variable info_nce(const Variable& queries, const Variable& targets, const InfoNceOptions& options = {});

/// The largest factor that CLIP's logits are scaled by.
inline constexpr double kMaxLogitScale = 100.0;

struct ClipOptions {
  Scale scale;                 ///< at most kMaxLogitScale; a trained one is Scale::from_log(clip.logit_scale())
  double label_smoothing = 0;  ///< as InfoNceOptions has it
  double hardness = 0;         ///< as InfoNceOptions has it
  /// Images are queries and texts targets: what is left out is left out in both directions, as pairs with one image or
  /// one text match each other's.
  EqualTargets equal_targets = {};
  Tiles tiles = std::nullopt;
  distributed::Communicator* communicator = nullptr;  ///< as InfoNceOptions has it
};

/// CLIP's symmetric loss (Radford et al. 2021): images and texts [N, width]. Mean of both directions' cross-entropies.
Variable clip_loss(const Variable& images, const Variable& texts, const ClipOptions& options);

struct SiglipOptions {
  Scale scale;
  Scalar bias;
  EqualTargets equal_targets = {};  ///< pairs that it leaves out, as in ClipOptions, are no terms of the sum
  Tiles tiles = std::nullopt;
  distributed::Communicator* communicator = nullptr;  ///< as InfoNceOptions has it
};

/// SigLIP's loss (Zhai et al. 2023): every pair is a binary problem; -1/N Σ_ij log σ(z_ij (scale x_i·y_j + bias)),
/// z = 1 on the diagonal and -1 off it; images and texts [N, width].
Variable siglip_loss(const Variable& images, const Variable& texts, const SiglipOptions& options);

/// Brings a log_scale parameter back to at most log(100), as CLIP's training does after every optimiser step: beyond
/// the clamp the loss gives it no gradient.
void clamp_log_scale(Parameter& log_scale);

struct NtXentOptions {
  Scale scale = 2;  ///< a temperature of 0.5
  /// Samples that are the same, the views a being queries and b targets, are no negatives of each other in either view;
  /// sup_con takes them for positives.
  EqualTargets equal_targets = {};
};

/// NT-Xent of SimCLR (Chen et al. 2020): two views a and b [N, width] of the same samples are 2N anchors; the other
/// view is the positive and the 2N - 2 remaining rows are the negatives: mean of -log softmax(scale · cos), the
/// similarity with itself left out.
Variable nt_xent(const Variable& a, const Variable& b, const NtXentOptions& options = {});

struct SupConOptions {
  Scale scale = 10;  ///< a temperature of 0.1
};

/// SupCon (Khosla et al. 2020, L_out): representations [N, width] and labels [N] (i32 or i64; any number is a class).
/// Mean over the anchors that share their class of -1/|P(i)| Σ_{p∈P(i)} log softmax(scale · cos), the similarity
/// with itself left out. Throws ValueError where no two labels are equal: for labels on a device, where the
/// representations are too, as value_checks.h says, so that the host does not wait; the loss is then 0.
Variable sup_con(const Variable& representations, const Tensor& labels, const SupConOptions& options = {});

struct GistOptions {
  Scale scale = 100;  ///< a temperature of 0.01
  /// How far below the positive's guide similarity a candidate's must be, to count as a negative.
  double margin = 0;
  /// Whether the margin is a share of the positive's similarity (of its absolute value).
  bool relative = false;
  /// Targets that are left out whatever the guide finds, and so are the queries and positives that they belong to.
  EqualTargets equal_targets = {};
};

/// GISTEmbed (Solatorio 2024, "Guided in-sample selection of training negatives"): InfoNCE of queries [M, width]
/// against targets [M·(1+h), width] (as in info_nce), the other queries, and, for the positive, the other positives,
/// where a candidate is left out if a guide model finds it nearer than the positive. The guide's representations, of
/// any width, are constants; where they are on another device than the queries, they are copied there. All similarities
/// are cosines.
Variable gist_loss(const Variable& queries, const Variable& targets, const Tensor& guide_queries,
                   const Tensor& guide_targets, const GistOptions& options = {});

/// Late interaction (Khattab & Zaharia 2020, "ColBERT"): a representation is one row for each token.
/// score[i, j] = Σ_t max_s q[i, t] · d[j, s] over the valid tokens t of query i and s of document j: queries
/// [N, query tokens, width], documents [M, document tokens, width], masks bool [N, query tokens] and [M, document
/// tokens], undefined where all are valid. Throws ValueError naming a document without a valid token.
Variable maxsim_scores(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                       const Tensor& document_mask);

struct MaxsimOptions {
  Scale scale = 1;
  EqualTargets equal_targets = {};  ///< documents are targets; equal_rows compares their valid tokens
  Tiles tiles = std::nullopt;       ///< of queries and documents, each of many tokens
};

/// InfoNCE over scale · maxsim_scores, documents being the targets as in info_nce: M = N·(1+h).
Variable maxsim_loss(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                     const Tensor& document_mask, const MaxsimOptions& options = {});

struct MatryoshkaOptions {
  std::vector<std::int64_t> widths = {};
  std::vector<double> weights = {};  ///< one a width; empty: 1 each
  bool normalize = true;             ///< rows of each cut to length one
};

/// Matryoshka representation learning (Kusupati et al. 2022): Σ_w weight_w · loss(representations cut to their first w
/// columns), so that prefixes of a representation serve as smaller ones. Throws ValueError for an empty function, no
/// widths, one outside [1, width] of a representation, or another number of weights, and ShapeError for a loss that is
/// no scalar.
Variable matryoshka(const std::function<Variable(std::span<const Variable>)>& loss,
                    std::span<const Variable> representations, const MatryoshkaOptions& options);

}  // namespace tapecache::losses
