#pragma once

#include <map>
#include <vector>

#include "training.h"

namespace clip_emoji {

/// The K of recall@K that the demo reports.
inline constexpr int kRecallAt[] = {1, 5, 10};

struct Evaluation {
  std::map<int, double> recall_text_to_image, recall_image_to_text;  ///< by K, among all held-out pairs
  double linear_probe_accuracy = 0;                                  ///< Unicode groups of held-out pictures
  tapecache::Tensor images, texts;                                   ///< held-out representations [pairs, width]
};

/// Measures a trained model on the held-out pairs, without dropout. The probe is fitted to the representations of the
/// training pictures.
Evaluation evaluate(tapecache::models::Clip& model, const TrainingSetup& setup);

/// Share of the most frequent group of the training pairs among the held-out ones.
double majority_class_accuracy(const Dataset& data);

/// Scaled similarities [pairs, pairs] of the given pairs' pictures (rows) and captions (columns).
tapecache::Tensor logits(tapecache::models::Clip& model, const TrainingSetup& setup,
                         std::span<const std::int64_t> pairs);

}  // namespace clip_emoji
