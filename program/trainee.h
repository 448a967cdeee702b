#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "command_train.h"
#include "image_encoder.h"
#include "pairs_file.h"
#include "tapecache/models/lora.h"
#include "tapecache/train/optimizer.h"
#include "text_model.h"
#include "training_loss.h"

namespace tapecache::program {

/// What is trained: a model or its adapter with the loss's own parameters, and the optimiser's state of them.
class Trainee {
 public:
  /// Loads the model and takes up what the options say of it, for pairs like these. Throws what the parts throw, and
  /// ValueError for a pattern that matches no parameter.
  Trainee(const TrainOptions& options, const PairsFile& pairs);

  const TextModel& model() const { return *model_; }
  /// Null where the pairs have no images.
  const ImageEncoder* images() const { return images_.get(); }
  const TrainingLoss& loss() const { return *loss_; }
  /// The model's and the loss's, those of them that are trained, and those that a checkpoint holds.
  const std::vector<Parameter>& all() const { return all_; }
  const std::vector<Parameter>& trained() const { return trained_; }
  const std::vector<Parameter>& saved() const { return adapter_ ? trained_ : all_; }
  train::AdamW& optimizer() { return *optimizer_; }
  std::span<const Buffer> averages() const { return ema_ ? std::span(ema_->state()) : std::span<const Buffer>(); }

  /// What training began from, as `run_settings`: the kind of model, and the weights of it, or of an adapter and its
  /// base, and of a guide.
  const std::map<std::string, std::string>& origin() const { return origin_; }

  /// The norm of the gradient, which is cut to `clip_norm` where that is above 0.
  double clip_gradient(double clip_norm);
  void step(double rate);

  /// What is measured and written are the averages, where there are any.
  template <class Function>
  std::invoke_result_t<Function> with_averages(const Function& function) const {
    if (!ema_) return function();
    const train::Ema::Scope scope = ema_->use();
    return function();
  }
  /// Writes the model or its adapter. Throws FileError.
  void write(const std::filesystem::path& out) const;

 private:
  void freeze(const std::vector<std::string>& patterns);
  std::map<std::string, std::string> found_origin() const;

  bool merge_;
  std::unique_ptr<TextModel> model_;
  std::optional<models::Lora> adapter_;
  std::unique_ptr<ImageEncoder> images_;
  std::unique_ptr<TrainingLoss> loss_;
  std::vector<Parameter> all_, trained_;
  std::unique_ptr<train::AdamW> optimizer_;
  std::optional<train::Ema> ema_;
  std::map<std::string, std::string> origin_;
};

}  // namespace tapecache::program
