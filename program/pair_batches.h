#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "evaluation.h"
#include "pairs_file.h"
#include "tapecache/gradcache/tower.h"
#include "tapecache/ops/contrastive_options.h"
#include "text_model.h"

namespace tapecache::program {

/// A batch as a step takes it.
struct PairBatch {
  models::TokenBatch anchors, targets;  ///< targets: each pair's positive, then its hard negatives
  ops::EqualTargets equal = {};         ///< where the batch has equal texts
  std::vector<std::string> anchor_texts = {}, target_texts = {};

  std::int64_t size() const { return anchors.size(); }
};

class PairBatches {
 public:
  /// Holds on to the arguments.
  PairBatches(const Pairs& pairs, const TextModel& model, const Prefixes& prefixes);
  PairBatch batch(const std::vector<std::int64_t>& rows) const;

 private:
  const Pairs& pairs_;
  const TextModel& model_;
  Prefixes prefixes_;
};

/// The first pairs of a batch, which has at least so many, with their hard negatives.
PairBatch first_pairs(const PairBatch& batch, std::int64_t count);

/// Anchors and targets, both encoded by the model.
std::vector<gradcache::Tower> towers_of(const PairBatch& batch, const TextModel& model);

}  // namespace tapecache::program
