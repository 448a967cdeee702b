#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pair_batches.h"
#include "tapecache/gradcache/step.h"

namespace tapecache::program {

enum class LossKind { kInfoNce, kClip, kSiglip, kGist, kMatryoshka };

struct LossOptions {
  std::string name = {};             ///< infonce, clip, siglip, gist or matryoshka:WIDTH,…; empty: as pairs want it
  std::optional<double> scale = {};  ///< none: what the loss begins with
  std::filesystem::path guide = {};  ///< of gist, a model's folder; empty: the model as it was before training
};

/// The loss of pairs, with images or without, for which none was chosen: clip of images and texts, else infonce. Throws
/// ValueError for one that takes no images.
std::string loss_name(const LossOptions& options, bool images);

/// The loss of a training run, with the parameters that it trains itself.
class TrainingLoss {
 public:
  /// Throws ValueError for a name or widths that are not known, a scale that is not above 0 or that the model has
  /// frozen, and hard negatives with a loss that takes none; FileError for the guide.
  TrainingLoss(const LossOptions& options, const TextModel& model, std::int64_t hard_negatives);

  /// Of this batch; of the guide's vectors, too, which are computed here: collective.
  gradcache::Loss of(const PairBatch& batch, const Prefixes& prefixes, const EmbedOptions& options,
                     const ProcessGroup& group = {}) const;
  /// CLIP's and SigLIP's scale, and SigLIP's bias, unless the model has them.
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// Gist's guide, else null.
  const TextModel* guide() const { return guide_.get(); }
  /// To be called after each step of the optimiser: keeps CLIP's scale, where it is trained, to 100 at most.
  void after_step();
  /// What similarities are multiplied by now.
  double scale() const;

 private:
  LossKind kind_ = LossKind::kInfoNce;
  std::vector<std::int64_t> widths_;
  double scale_ = 0;
  Parameter log_scale_, bias_;
  std::vector<Parameter> parameters_;
  std::unique_ptr<TextModel> guide_;
};

}  // namespace tapecache::program
