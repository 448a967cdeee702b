#include "results.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "evaluation.h"
#include "tapecache/core/error.h"

namespace clip_emoji {

using Json = nlohmann::ordered_json;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// JSON has no NaN and no infinity, and null already means not measured.
Json number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

Json or_null(const std::optional<double>& value) { return value ? number(*value) : Json(); }

Json by_k(const std::map<int, double>& recall) {
  Json object = Json::object();
  for (const auto& [k, share] : recall) object[std::to_string(k)] = number(share);
  return object;
}

Json to_json(const WayResult& way) {
  Json json{{"batch", way.batch},
            {"chunk", or_null(way.chunk)},
            {"steps", way.records.size()},
            {"loss_first", number(way.records.empty() ? kNaN : way.records.front().loss)},
            {"loss_last", number(way.records.empty() ? kNaN : way.records.back().loss)},
            {"max_rel_grad_diff", or_null(way.max_relative_gradient_difference())},
            {"recall_text_to_image", by_k(way.recall_text_to_image)},
            {"recall_image_to_text", by_k(way.recall_image_to_text)},
            {"linear_probe_accuracy", number(way.linear_probe_accuracy)},
            {"peak_bytes", way.peak_bytes},
            {"seconds", number(way.seconds)},
            {"pairs_per_second", number(way.pairs_per_second())}};
  if (!way.peak_bytes_by_process.empty()) json["peak_bytes_by_process"] = way.peak_bytes_by_process;
  return json;
}

std::string text_of(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string metrics_line(std::string_view way, const StepRecord& record) {
  return text_of({{"way", way},
                  {"step", record.step},
                  {"loss", number(record.loss)},
                  {"learning_rate", number(record.learning_rate)},
                  {"gradient_norm", number(record.gradient_norm)},
                  {"rel_grad_diff", or_null(record.relative_gradient_difference)},
                  {"seconds", number(record.seconds)}},
                 -1);
}

}  // namespace

std::optional<double> WayResult::max_relative_gradient_difference() const {
  std::optional<double> largest;
  for (const StepRecord& record : records) {
    const auto& difference = record.relative_gradient_difference;
    if (!difference || (largest && std::isnan(*largest))) continue;
    if (!largest || !(*difference <= *largest)) largest = *difference;
  }
  return largest;
}

double WayResult::pairs_per_second() const {
  return seconds > 0 ? static_cast<double>(batch) * static_cast<double>(records.size()) / seconds : kNaN;
}

const WayResult& Results::way(std::string_view name) const {
  for (const WayResult& result : ways) {
    if (result.name == name) return result;
  }
  throw tapecache::ValueError(fmt::format("results: there is no way {}", name));
}

double Results::chance(int k) const {
  return pairs_held_out > 0 ? std::min(1.0, static_cast<double>(k) / static_cast<double>(pairs_held_out)) : kNaN;
}

std::vector<std::pair<std::string, bool>> check_claims(const Results& results) {
  const double cached = results.way("gradcache").max_relative_gradient_difference().value_or(kNaN);
  const WayResult &accumulation = results.way("accumulation"), &large = results.way("gradcache_large");
  std::vector<std::pair<std::string, bool>> claims{{"gradcache equals direct", cached <= results.equality_bound()}};
  if (accumulation.chunk && *accumulation.chunk < accumulation.batch) {
    const double accumulated = accumulation.max_relative_gradient_difference().value_or(kNaN);
    claims.emplace_back("accumulation does not", accumulated > kAccumulationBound);
  }
  claims.emplace_back(fmt::format("gradcache at {} fits", large.batch), large.peak_bytes <= results.memory_limit_bytes);
  return claims;
}

std::string summary_json(const Results& results) {
  Json summary;
  for (const WayResult& way : results.ways) summary[way.name] = to_json(way);
  summary["pairs_train"] = results.pairs_train;
  summary["pairs_held_out"] = results.pairs_held_out;
  summary["direct_large_error"] = results.direct_large_error;
  summary["majority_class_accuracy"] = number(results.majority_class_accuracy);
  std::map<int, double> chance;
  for (const int k : kRecallAt) chance[k] = results.chance(k);
  summary["recall_chance"] = by_k(chance);
  summary["memory_limit_bytes"] = results.memory_limit_bytes;
  summary["dtype"] = results.dtype;
  summary["seed"] = results.seed;
  summary["threads"] = results.threads;
  for (const auto& [claim, holds] : check_claims(results)) summary["claims"][claim] = holds;
  return text_of(summary, 2);
}

void MetricsLog::append(std::string_view way, const StepRecord& record) { file_.write(metrics_line(way, record)); }

}  // namespace clip_emoji
