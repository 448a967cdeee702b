#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tapecache/models/lora.h"
#include "tapecache/train/optimizer.h"
#include "text_model.h"

namespace tapecache::program {

/// Which of a model's parameters are trained, how fast, and what of them is kept.
struct TuningOptions {
  std::optional<std::int64_t> lora = {};  ///< the rank of adapters; none: the model's own parameters are trained
  std::optional<double> lora_alpha = {};  ///< none: twice the rank
  std::vector<std::string> lora_targets = {};
  std::optional<double> lora_dropout = {};
  bool merge = false;  ///< write the whole model in the place of the adapter

  std::vector<std::string> groups = {};  ///< PATTERN:rate=R,decay=D, of which either may be left out
  double layer_decay = 1;
  std::optional<double> ema = {};
  std::string schedule = "warmup_cosine";
};

/// Adapts the model as the options say or, where it came from an adapter's folder, goes on with that. Throws ValueError
/// for options that do not belong together, and as `add_lora`.
std::optional<models::Lora> adapter_of(const TextModel& model, const TuningOptions& options);

/// The groups, of which `rate` is the learning rate of all others. Throws ValueError naming the text that is no group.
std::vector<train::Optimizer::Group> parse_groups(const std::vector<std::string>& texts, double rate);

/// The learning rate of a step counted from 0. Throws ValueError for a schedule that is not known.
double scheduled_rate(const std::string& schedule, std::int64_t step, std::int64_t warmup, std::int64_t total,
                      double peak);

/// What the bits of a run, or what it leaves, depend on, as `run_settings`.
std::map<std::string, std::string> tuning_settings(const TuningOptions& options);

}  // namespace tapecache::program
