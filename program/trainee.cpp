#include "trainee.h"

#include <fnmatch.h>

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "fingerprint.h"
#include "tapecache/core/error.h"

namespace tapecache::program {

namespace {

std::string fingerprint_of(const std::vector<Parameter>& parameters) {
  Fingerprint all;
  std::int64_t numbers = 0;
  for (const Parameter& p : parameters) {
    const Tensor value = p.value().to(Device::cpu());
    for (const std::string_view text : {std::string_view(p.name()), name(value.dtype())}) all.add(text);
    all.add(to_string(value.shape()));
    for (const auto& [setting, text] : p.settings()) {
      all.add(setting);
      all.add(text);
    }
    all.add(std::span(value.raw(), value.bytes()));
    numbers += value.numel();
  }
  return fmt::format("{} numbers of fingerprint {:016x}", numbers, all.value());
}

}  // namespace

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
  origin_ = found_origin();
}

std::map<std::string, std::string> Trainee::found_origin() const {
  std::map<std::string, std::string> found;
  // What --lora adds follows from its options and the seed.
  const std::vector<Parameter> added = adapter_ ? adapter_->parameters() : std::vector<Parameter>();
  std::vector<Parameter> own;
  std::ranges::copy_if(model_->model().parameters(), std::back_inserter(own),
                       [&](const Parameter& p) { return std::ranges::find(added, p) == added.end(); });
  found.emplace(model_->adapter() ? "the weights of --base" : "the weights of --model", fingerprint_of(own));
  if (model_->adapter()) found.emplace("the weights of --model", fingerprint_of(added));
  const models::Pretrained::Info& info = model_->model().info();
  found.emplace("the kind of model",
                fmt::format("{}, pooling: {}{}, {}, {} tokens", info.architecture, info.pooling,
                            info.normalized ? ", length 1" : "", info.similarity, model_->max_tokens()));
  if (const TextModel* guide = loss_->guide()) {
    found.emplace("the weights of --guide", fingerprint_of(guide->model().parameters()));
  }
  return found;
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
