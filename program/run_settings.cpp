#include "run_settings.h"

#include <cstdint>
#include <string_view>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::program {

namespace {

template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : "none";
}

}  // namespace

std::map<std::string, std::string> run_settings(const TrainOptions& options, const PairsFile& training,
                                                const Prefixes& prefixes) {
  std::map<std::string, std::string> settings = tuning_settings(options.tuning);
  settings.insert({
      {"the pairs for training", fmt::format("{} of fingerprint {:016x}", training.size(), training.fingerprint())},
      {"--batch", fmt::format("{}", options.batch)},
      {"--bf16", fmt::format("{}", options.model.bf16)},
      {"--chunk", text_of(options.chunk)},
      {"--chunk-tokens", text_of(options.chunk_tokens)},
      {"--crop", fmt::format("{}", options.model.images.crop)},
      {"--flip", fmt::format("{}", options.model.images.flip)},
      {"--over-white", fmt::format("{}", options.model.images.over_white)},
      {"--clip-norm", fmt::format("{}", options.clip_norm)},
      {"--dropout", text_of(options.dropout)},
      {"--eval-limit", fmt::format("{}", options.eval_limit)},
      {"--eval-share", fmt::format("{}", options.eval_pairs.empty() ? options.eval_share : 0)},
      {"--freeze", fmt::format("{}", fmt::join(options.freeze, " "))},
      {"--loss", options.loss.name},
      {"--max-tokens", text_of(options.model.max_tokens)},
      {"--memory", text_of(options.memory)},
      {"--passage-prefix", prefixes.passage},
      {"--query-prefix", prefixes.query},
      {"--reproducible", fmt::format("{}", options.reproducible)},
      {"--rate", fmt::format("{}", options.rate)},
      {"--scale", text_of(options.loss.scale)},
      {"--seed", fmt::format("{}", options.seed)},
      {"--steps", text_of(options.steps)},
      {"--warmup", fmt::format("{}", options.warmup)},
      {"--weight-decay", fmt::format("{}", options.weight_decay)},
  });
  return settings;
}

void require_same_settings(const std::map<std::string, std::string>& saved,
                           const std::map<std::string, std::string>& now) {
  for (const auto& [name, value] : now) {
    const auto found = saved.find(name);
    const std::string before = found == saved.end() ? "" : found->second;
    if (before != value) {
      throw ValueError(fmt::format("--resume: the run began with {} '{}', found '{}'", name, before, value));
    }
  }
}

}  // namespace tapecache::program
