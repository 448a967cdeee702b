#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/ops/contrastive_options.h"

namespace tapecache::losses {

/// A number that a loss computes with, or a scalar in its place, which may be trained. A parameter is read when the
/// loss is taken, so that options may be kept from step to step.
class Scalar {
 public:
  Scalar(double number) : value_(number) {}
  Scalar(Variable scalar);
  Scalar(Tensor constant) : value_(Variable(std::move(constant))) {}
  Scalar(Parameter trained) : value_(std::move(trained)) {}

  /// The scalar, of the type and on the device of `like`. Throws, naming the loss and the argument, ValueError for a
  /// number that is not finite in that type and for what is undefined, and ShapeError, DTypeError or DeviceError for
  /// another kind of Variable.
  Variable value(const char* loss, const char* argument, const Variable& like) const;

 private:
  std::variant<double, Variable, Parameter> value_;
};

/// What a loss multiplies similarities by, the inverse of a temperature.
class Scale : public Scalar {
 public:
  using Scalar::Scalar;

  /// 1 / temperature. Throws ValueError unless both are above 0 and finite.
  static Scale from_temperature(double temperature);
  /// exp(log_scale), as CLIP and SigLIP train it: the scale stays positive.
  static Scale from_log(Variable log_scale);
  static Scale from_log(Parameter log_scale);

  /// The factor, at most `limit`. Throws as `value` does.
  Variable factor(const char* loss, const Variable& like, double limit = std::numeric_limits<double>::infinity()) const;

 private:
  bool is_log_ = false;  // the value is the logarithm of the factor
};

}  // namespace tapecache::losses

namespace tapecache::distributed {
class Communicator;
}

/// Contrastive losses: functions of representations [rows, width] that return a scalar. Each takes its options in a
/// struct:
///
///     losses::info_nce(queries, targets, {.scale = 30, .label_smoothing = 0.1})
///
/// A trained scale is passed as a Parameter or a Variable (`Scale`). All losses throw ShapeError, DTypeError or
/// DeviceError if arguments do not fit each other, and ValueError for undefined arguments, for options that are out of
/// range or not finite, and for ids together with equal_rows. Errors are the same with and without tiles.
namespace tapecache::losses {

/// With tiles, a loss never holds all its logits in memory: forward and backward compute a few tiles of them at a time
/// (Cheng et al. 2024, "Breaking the memory barrier: near infinite batch size scaling for contrastive loss"). The
/// result differs by rounding only. `ops::TileOptions{}`, or `{{}}`, uses the tile sizes that suit the device;
/// `std::nullopt` turns tiles off; `{}` alone would be ambiguous and does not compile. Throws ValueError for tile sizes
/// below 1, and for options that need a whole row of logits, naming them.
class Tiles : public std::optional<ops::TileOptions> {
 public:
  explicit Tiles() = default;
  Tiles(std::nullopt_t) {}
  Tiles(ops::TileOptions tiles) : optional(tiles) {}
};

/// How the ranks of a shared loss meet each other's candidates.
enum class SharedCandidates {
  /// In a ring where there are four ranks at least, and all candidates with their gradient would take more than half of
  /// the memory that a rank has been limited to (`Device::set_memory_limit`, the least of all ranks'); else gathered.
  kAutomatic,
  kGathered,  ///< each rank holds the candidates of all, and in backward their gradient
  /// A rank holds its own candidates and a block of a tile's columns, and in backward its gradient, which travel around
  /// all ranks: more messages, and candidates are sent again in backward.
  kRing,
};

struct InfoNceOptions {
  Scale scale = 20;
  /// Share of each target's probability that is spread evenly over all candidates (Szegedy et al. 2016, "Rethinking the
  /// Inception architecture"), in [0, 1). Not available with tiles.
  double label_smoothing = 0;
  /// β of Robinson et al. 2021, "Contrastive learning with hard negative samples": negative j of row i is weighted by
  /// exp(β zᵢⱼ) divided by its mean over the row's negatives; the gradient flows through the weights. At least 0. Not
  /// available with tiles.
  double hardness = 0;
  /// Which targets equal a query's positive and are therefore not negatives. They are left out of the denominator, of
  /// label smoothing and of the mean of hardness.
  ops::EqualTargets equal_targets = {};
  Tiles tiles = std::nullopt;
  /// For a step with `StepOptions::shared_loss`: queries, targets and ids are this rank's own, even none, each query's
  /// targets with it; the loss is that over those of all ranks, of which each computes its own queries' rows of the
  /// logits. It has all options, and label smoothing and hardness in tiles too: a rank holds a tile of logits at a
  /// time, of the device's own size where `tiles` is not given, and computes each again in backward. Rows of
  /// `equal_rows` are compared between ranks by 128 bits made of theirs. Throws ValueError on all ranks, naming the
  /// rank, where options differ. What fails here on one rank ends the group. Of several processes, a loss that has no
  /// communicator is taken over all rows on each, in a step without `shared_loss`.
  distributed::Communicator* communicator = nullptr;
  SharedCandidates candidates = SharedCandidates::kAutomatic;  ///< of a loss with a communicator
};

/// InfoNCE in one direction (van den Oord et al. 2018; with hard negatives as in Karpukhin et al. 2020): queries
/// [M, width], targets [M·(1+h), width], where row i·(1+h) is the positive of query i and the h rows after it are its
/// hard negatives. Every query is scored against all targets; the loss is the mean of -log softmax(scale · q tᵀ).
/// Representations are used as they are; normalise them for cosine similarity.
Variable info_nce(const Variable& queries, const Variable& targets, const InfoNceOptions& options = {});

struct ClipOptions {
  /// The largest factor by which CLIP's logits are scaled.
  static constexpr double kMaxScale = 100;

  Scale scale;                 ///< at most kMaxScale; a trained one is Scale::from_log(clip.logit_scale())
  double label_smoothing = 0;  ///< as in InfoNceOptions
  double hardness = 0;         ///< as in InfoNceOptions
  /// Images are the queries and texts the targets. A pair is left out in both directions, since pairs that share an
  /// image or a text match each other.
  ops::EqualTargets equal_targets = {};
  Tiles tiles = std::nullopt;
  distributed::Communicator* communicator = nullptr;  ///< as InfoNceOptions has it
  SharedCandidates candidates = SharedCandidates::kAutomatic;
};

/// CLIP's symmetric loss (Radford et al. 2021) of images and texts [N, width]: the mean of the cross-entropies of both
/// directions.
Variable clip_loss(const Variable& images, const Variable& texts, const ClipOptions& options);

struct SiglipOptions {
  Scale scale;
  Scalar bias;
  ops::EqualTargets equal_targets = {};  ///< pairs that are left out, as in ClipOptions, are not terms of the sum
  Tiles tiles = std::nullopt;
  distributed::Communicator* communicator = nullptr;  ///< as InfoNceOptions has it
  SharedCandidates candidates = SharedCandidates::kAutomatic;
};

/// SigLIP's loss (Zhai et al. 2023) of images and texts [N, width]: each pair is a binary classification,
/// -1/N Σ_ij log σ(z_ij (scale x_i·y_j + bias)), with z = 1 on the diagonal and -1 elsewhere.
Variable siglip_loss(const Variable& images, const Variable& texts, const SiglipOptions& options);

/// Clamps a log_scale parameter to at most log(100), as CLIP's training does after every optimiser step. Above that
/// value the loss gives it no gradient.
void clamp_log_scale(Parameter& log_scale);

struct NtXentOptions {
  Scale scale = 2;  ///< a temperature of 0.5
  /// Which samples are the same (views a are the queries, views b the targets). They are not negatives of each other in
  /// either view; sup_con treats them as positives.
  ops::EqualTargets equal_targets = {};
  /// As InfoNceOptions has it: both views of this rank's own samples.
  distributed::Communicator* communicator = nullptr;
  SharedCandidates candidates = SharedCandidates::kAutomatic;
};

/// NT-Xent of SimCLR (Chen et al. 2020): two views a and b [N, width] of the same samples are 2N anchors. Each anchor's
/// positive is its other view, and the remaining 2N - 2 rows are its negatives. The loss is the mean of
/// -log softmax(scale · cos), without an anchor's similarity to itself.
Variable nt_xent(const Variable& a, const Variable& b, const NtXentOptions& options = {});

struct SupConOptions {
  Scale scale = 10;  ///< a temperature of 0.1
  /// As InfoNceOptions has it: this rank's own rows and labels. Labels of a device are copied to the host.
  distributed::Communicator* communicator = nullptr;
  SharedCandidates candidates = SharedCandidates::kAutomatic;
};

/// SupCon (Khosla et al. 2020, L_out) of representations [N, width] and labels [N] (i32 or i64; any number is a class):
/// the mean of -1/|P(i)| Σ_{p∈P(i)} log softmax(scale · cos), without similarities of a row to itself, over all anchors
/// i that share their class with another row. Throws ValueError if no two labels are equal. If labels and
/// representations are on a device, the host does not wait: the loss is 0 then, and the next call that waits for the
/// device throws.
Variable sup_con(const Variable& representations, const Tensor& labels, const SupConOptions& options = {});

struct GistOptions {
  Scale scale = 100;  ///< a temperature of 0.01
  /// How far a candidate's guide similarity must be below the positive's for it to count as a negative.
  double margin = 0;
  /// Whether the margin is relative to the absolute value of the positive's similarity.
  bool relative = false;
  /// Which targets are left out whatever the guide says, together with the queries and positives they belong to.
  ops::EqualTargets equal_targets = {};
  /// As InfoNceOptions has it; what the guide says is of this rank's own as well. Both sides and the guide's are
  /// gathered, since all are candidates or decide of them.
  distributed::Communicator* communicator = nullptr;
};

/// GISTEmbed (Solatorio 2024, "Guided in-sample selection of training negatives"): InfoNCE of queries [M, width]
/// against targets [M·(1+h), width] (as in info_nce), against the other queries and, for the positive, against the
/// other positives. A candidate is left out if a guide model finds it closer than the positive. The guide's
/// representations, of any width, are constants, and are copied to the queries' device if necessary. All similarities
/// are cosines.
Variable gist_loss(const Variable& queries, const Variable& targets, const Tensor& guide_queries,
                   const Tensor& guide_targets, const GistOptions& options = {});

/// Late interaction (Khattab & Zaharia 2020, "ColBERT"), where a representation has one row for each token:
/// score[i, j] = Σ_t max_s q[i, t] · d[j, s] over the valid tokens t of query i and s of document j. Takes queries
/// [N, query tokens, width], documents [M, document tokens, width], and bool masks [N, query tokens] and [M, document
/// tokens], which are undefined if all tokens are valid. Throws ValueError naming a document without a valid token.
Variable maxsim_scores(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                       const Tensor& document_mask);

struct MaxsimOptions {
  Scale scale = 1;
  ops::EqualTargets equal_targets = {};  ///< documents are the targets; equal_rows compares their valid tokens
  Tiles tiles = std::nullopt;            ///< of queries and documents, each of many tokens
  /// As InfoNceOptions has it; masks are of this rank's own as well, and on all ranks or on none. Queries have the
  /// same number of tokens on all, and so have documents.
  distributed::Communicator* communicator = nullptr;
  SharedCandidates candidates = SharedCandidates::kAutomatic;
};

/// InfoNCE over scale · maxsim_scores, with documents as the targets of info_nce: M = N·(1+h).
Variable maxsim_loss(const Variable& queries, const Tensor& query_mask, const Variable& documents,
                     const Tensor& document_mask, const MaxsimOptions& options = {});

struct MatryoshkaOptions {
  std::vector<std::int64_t> widths = {};
  std::vector<double> weights = {};  ///< one a width; empty: 1 each
  bool normalize = true;             ///< normalise the rows of each prefix to length 1
};

/// Matryoshka representation learning (Kusupati et al. 2022): Σ_w weight_w · loss(first w columns of the
/// representations), so that prefixes of a representation can be used as smaller ones. Throws ValueError for an empty
/// function, for no widths, a width outside [1, width of a representation], or a wrong number of weights, and
/// ShapeError if the loss is not a scalar.
Variable matryoshka(const std::function<Variable(std::span<const Variable>)>& loss,
                    std::span<const Variable> representations, const MatryoshkaOptions& options);

}  // namespace tapecache::losses
