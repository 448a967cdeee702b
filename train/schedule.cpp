#include "tapecache/train/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tapecache/core/error.h"

namespace tapecache::train {

double warmup_cosine(std::int64_t step, std::int64_t warmup, std::int64_t total, double peak, double floor) {
  if (step < 0 || warmup < 0 || warmup > total || total < 1 || !(floor >= 0) || !(floor <= peak)) {
    throw ValueError(
        fmt::format("warmup_cosine: step {}, warmup {}, total {}, peak {}, floor {}; expected step >= 0, "
                    "0 <= warmup <= total, total >= 1 and 0 <= floor <= peak",
                    step, warmup, total, peak, floor));
  }
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (step >= total) return floor;
  const double progress = static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
  return floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

namespace {

constexpr std::array<std::string_view, 5> kNames{"constant", "constant_with_warmup", "linear", "cosine",
                                                 "cosine_with_restarts"};  // in the order of Schedule::Kind

}  // namespace

Schedule Schedule::parse(std::string_view name) {
  const auto* const found = std::ranges::find(kNames, name);
  if (found == kNames.end()) {
    throw ValueError(fmt::format("schedule: '{}', expected one of {}", name, fmt::join(kNames, ", ")));
  }
  return Schedule(static_cast<Kind>(found - kNames.begin()));
}

double Schedule::factor(std::int64_t step, std::int64_t warmup, std::int64_t total, int cycles) const {
  if (step < 0 || warmup < 0 || total < 1 || cycles < 1) {
    throw ValueError(
        fmt::format("schedule: step {}, warmup {}, total {}, cycles {}; expected step and warmup >= 0, "
                    "total and cycles >= 1",
                    step, warmup, total, cycles));
  }
  const auto share = [](std::int64_t part, std::int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(1, whole));
  };
  if (kind_ != Kind::kConstant && step < warmup) return share(step, warmup);
  const double progress = share(step - warmup, total - warmup);
  switch (kind_) {
    case Kind::kConstant:
    case Kind::kConstantWithWarmup:
      return 1;
    case Kind::kLinear:
      return std::max(0.0, share(total - step, total - warmup));
    case Kind::kCosine:
      return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * progress)));
    case Kind::kCosineWithRestarts:
      if (progress >= 1) return 0;
      return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * std::fmod(cycles * progress, 1.0))));
  }
  throw ValueError(fmt::format("schedule: {}, expected one there is", static_cast<int>(kind_)));
}

}  // namespace tapecache::train
