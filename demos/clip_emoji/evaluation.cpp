#include "evaluation.h"

#include <algorithm>
#include <cmath>

#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/train/metrics.h"

namespace clip_emoji {

using tapecache::Tensor;
using tapecache::Variable;
using tapecache::gradcache::Tower;
using tapecache::models::Clip;

namespace {

constexpr std::int64_t kEvaluationChunk = 64;

/// Turns dropout off for a scope.
class EvaluationMode {
 public:
  explicit EvaluationMode(Clip& model) : model_(model) { model_.set_training(false); }
  ~EvaluationMode() { model_.set_training(true); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  Clip& model_;
};

Tensor encode_all(const Tower& tower) {
  std::vector<Variable> parts;
  for (std::int64_t begin = 0; begin < tower.size(); begin += kEvaluationChunk) {
    const auto encoded = tower.encode(begin, std::min(tower.size(), begin + kEvaluationChunk));
    parts.push_back(encoded.outputs.front().value);
  }
  return tapecache::ops::concat(parts).value();
}

Tensor groups_of(const Dataset& data, std::span<const std::int64_t> pairs) {
  std::vector<std::int64_t> groups;
  for (std::int64_t pair : pairs) groups.push_back(data.group_of[static_cast<std::size_t>(pair)]);
  return Tensor::from(groups, {static_cast<std::int64_t>(groups.size())});
}

}  // namespace

Evaluation evaluate(Clip& model, const TrainingSetup& setup) {
  const EvaluationMode mode(model);
  const Dataset& data = *setup.data;
  const std::vector<Tower> held_out = towers_of(model, setup, data.held_out, std::nullopt);
  Evaluation result;
  result.images = encode_all(held_out[0]);
  result.texts = encode_all(held_out[1]);
  result.recall_text_to_image = tapecache::train::recall_at_k(result.texts, result.images, kRecallAt);
  result.recall_image_to_text = tapecache::train::recall_at_k(result.images, result.texts, kRecallAt);
  const Tensor train_images = encode_all(towers_of(model, setup, data.train, std::nullopt)[0]);
  result.linear_probe_accuracy = tapecache::train::linear_probe(train_images, groups_of(data, data.train),
                                                                result.images, groups_of(data, data.held_out));
  return result;
}

double majority_class_accuracy(const Dataset& data) {
  return tapecache::train::majority_class_accuracy(groups_of(data, data.train), groups_of(data, data.held_out));
}

Tensor logits(Clip& model, const TrainingSetup& setup, std::span<const std::int64_t> pairs) {
  const EvaluationMode mode(model);
  const std::vector<Tower> towers = towers_of(model, setup, pairs, std::nullopt);
  const Variable images = encode_all(towers[0]), texts = encode_all(towers[1]);
  const double scale = std::exp(model.logit_scale().value().item());
  return tapecache::ops::scale(tapecache::ops::matmul(images, texts, {.transpose_b = true}), scale).value();
}

}  // namespace clip_emoji
