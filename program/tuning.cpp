#include "tuning.h"

#include <charconv>
#include <string_view>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/error.h"
#include "tapecache/train/optimizer.h"

namespace tapecache::program {

namespace {

constexpr std::string_view kWarmupCosine = "warmup_cosine";

std::optional<double> number_in(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

train::Optimizer::Group parse_group(const std::string& text, double rate) {
  const std::size_t colon = text.rfind(':');
  const auto refuse = [&] {
    throw ValueError(
        fmt::format("--group is '{}', expected PATTERN:rate=NUMBER,decay=NUMBER, or one of the two", text));
  };
  if (colon == std::string::npos || colon == 0) refuse();
  train::Optimizer::Group group{.pattern = text.substr(0, colon)};
  std::string_view rest = std::string_view(text).substr(colon + 1);
  while (true) {
    const std::string_view field = rest.substr(0, rest.find(','));
    const std::optional<double> value = number_in(field.substr(std::min(field.find('='), field.size() - 1) + 1));
    if (!value) refuse();
    if (field.starts_with("rate=")) group.rate_factor = *value / rate;
    else if (field.starts_with("decay=")) group.weight_decay = *value;
    else refuse();
    if (field.size() == rest.size()) return group;
    rest.remove_prefix(field.size() + 1);
  }
}

}  // namespace

std::optional<models::Lora> adapter_of(const TextModel& model, const TuningOptions& options) {
  if (model.adapter()) {
    if (options.lora || options.lora_alpha || options.lora_dropout || !options.lora_targets.empty()) {
      throw ValueError(fmt::format("{}: is an adapter, which is trained as it is; found options of --lora",
                                   model.folder().string()));
    }
    return model.adapter();
  }
  if (!options.lora) {
    if (options.lora_alpha || options.lora_dropout || !options.lora_targets.empty() || options.merge) {
      throw ValueError("--merge and the options of --lora need --lora RANK, or a --model that is an adapter");
    }
    return std::nullopt;
  }
  models::LoraOptions lora{.rank = *options.lora,
                           .alpha = options.lora_alpha.value_or(2 * static_cast<double>(*options.lora)),
                           .dropout = options.lora_dropout.value_or(0)};
  if (!options.lora_targets.empty()) lora.targets = options.lora_targets;
  return models::add_lora(model.model(), lora);
}

std::vector<train::Optimizer::Group> parse_groups(const std::vector<std::string>& texts, double rate) {
  std::vector<train::Optimizer::Group> groups;
  for (const std::string& text : texts) groups.push_back(parse_group(text, rate));
  return groups;
}

double scheduled_rate(const std::string& schedule, std::int64_t step, std::int64_t warmup, std::int64_t total,
                      double peak) {
  if (schedule == kWarmupCosine) return train::warmup_cosine(step, warmup, total, peak);
  try {
    return peak * train::Schedule::parse(schedule).factor(step, warmup, total);
  } catch (const ValueError& e) {
    throw ValueError(fmt::format("--{}, or {}", e.what(), kWarmupCosine));
  }
}

std::map<std::string, std::string> tuning_settings(const TuningOptions& options) {
  const auto text_of = [](const auto& value) { return value ? fmt::format("{}", *value) : "none"; };
  return {
      {"--ema", text_of(options.ema)},
      {"--group", fmt::format("{}", fmt::join(options.groups, " "))},
      {"--layer-decay", fmt::format("{}", options.layer_decay)},
      {"--lora", text_of(options.lora)},
      {"--lora-alpha", text_of(options.lora_alpha)},
      {"--lora-dropout", text_of(options.lora_dropout)},
      {"--lora-targets", fmt::format("{}", fmt::join(options.lora_targets, " "))},
      {"--merge", fmt::format("{}", options.merge)},
      {"--schedule", options.schedule},
  };
}

}  // namespace tapecache::program
