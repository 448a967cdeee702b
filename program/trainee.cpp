#include "trainee.h"

#include <fnmatch.h>

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::program {

Trainee::Trainee(const TrainOptions& options, const PairsFile& pairs) : merge_(options.tuning.merge) {
  model_ = std::make_unique<TextModel>(options.model.folder, TextModelOptions{.max_tokens = options.model.max_tokens,
                                                                              .dropout = options.dropout,
                                                                              .seed = options.seed,
                                                                              .base = options.model.base,
                                                                              .checkpoint = options.checkpointing,
                                                                              .merge = false});
  adapter_ = adapter_of(*model_, options.tuning);
  if (pairs.images()) {
    images_ = std::make_unique<ImageEncoder>(model_->model(), options.model.images);
  }
  freeze(options.freeze);
  loss_ = std::make_unique<TrainingLoss>(options.loss, *model_, pairs.hard_negatives());
  all_ = model_->model().parameters();
  all_.insert(all_.end(), loss_->parameters().begin(), loss_->parameters().end());
  std::ranges::copy_if(all_, std::back_inserter(trained_), [](const Parameter& p) { return p.requires_gradient(); });
  const train::AdamWOptions adamw{.weight_decay = options.weight_decay,
                                  .groups = parse_groups(options.tuning.groups, options.rate),
                                  .layer_decay = options.tuning.layer_decay};
  optimizer_ = std::make_unique<train::AdamW>(trained_, adamw);
  if (options.tuning.ema) ema_.emplace(trained_, train::EmaOptions{.decay = *options.tuning.ema});
}

/// By the patterns; each must match something.
void Trainee::freeze(const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    bool matched = false;
    for (Parameter parameter : model_->model().parameters()) {
      if (::fnmatch(pattern.c_str(), parameter.name().c_str(), 0) != 0) continue;
      parameter.set_requires_gradient(false);
      matched = true;
    }
    if (!matched) {
      throw ValueError(fmt::format("--freeze '{}' matches no parameter; they are called like '{}' ({} lists all)",
                                   pattern, model_->model().parameters().front().name(), "tapecache inspect"));
    }
  }
}

double Trainee::clip_gradient(double clip_norm) {
  return (clip_norm > 0 ? train::clip_gradient_norm(trained_, clip_norm) : train::gradient_norm(trained_)).item();
}

void Trainee::step(double rate) {
  optimizer_->step(rate);
  optimizer_->clear_gradients();
  loss_->after_step();
  if (ema_) ema_->update();
}

void Trainee::write(const std::filesystem::path& out) const {
  if (adapter_ && !merge_) {
    models::save_lora(out, *adapter_, model_->model());
    return;
  }
  if (adapter_) adapter_->merge();
  models::save_pretrained(out, model_->model());
  if (adapter_) adapter_->unmerge();
}

}  // namespace tapecache::program
