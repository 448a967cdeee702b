#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "evaluation.h"
#include "image_encoder.h"
#include "pairs_file.h"
#include "tapecache/gradcache/tower.h"
#include "tapecache/ops/contrastive_options.h"
#include "text_model.h"
#include "work_ahead.h"

namespace tapecache::program {

/// A batch as a step takes it.
struct PairBatch {
  models::TokenBatch anchors, targets;  ///< targets: each pair's positive, then its hard negatives
  Tensor pixels = {};                   ///< of the anchors, where they are images
  ops::EqualTargets equal = {};         ///< where the batch has equal texts
  std::vector<std::string> anchor_texts = {}, target_texts = {};

  std::int64_t size() const { return static_cast<std::int64_t>(anchor_texts.size()); }
};

/// How images are read beside what the program computes.
struct LoadingOptions {
  std::uint64_t seed = 0;  ///< of crops and flips
  int threads = 1;
};

class PairBatches {
 public:
  /// Holds on to the arguments; `images` encodes the anchors of pairs that have images.
  PairBatches(const Pairs& pairs, const TextModel& model, const Prefixes& prefixes,
              const ImageEncoder* images = nullptr, const LoadingOptions& loading = {});

  /// With an epoch, images as training sees them in it.
  PairBatch batch(const std::vector<std::int64_t>& rows, std::optional<std::uint32_t> epoch = {});
  /// Begins to read the images of what `batch` is called with next; what goes wrong is thrown there.
  void load_ahead(const std::vector<std::int64_t>& rows, std::optional<std::uint32_t> epoch = {});

 private:
  const Pairs& pairs_;
  const TextModel& model_;
  Prefixes prefixes_;
  const ImageEncoder* images_;
  std::uint64_t seed_;
  std::vector<std::int64_t> loading_;  // rows whose images are being read
  Tensor pixels_;                      // their places
  std::unique_ptr<WorkAhead> work_;    // ends before what it writes to
};

/// The first pairs of a batch, which has at least so many, with their hard negatives.
PairBatch first_pairs(const PairBatch& batch, std::int64_t count);

/// Anchors and targets, both encoded by the model, or images by its other half.
std::vector<gradcache::Tower> towers_of(const PairBatch& batch, const TextModel& model,
                                        const ImageEncoder* images = nullptr);

}  // namespace tapecache::program
