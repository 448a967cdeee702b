#include "tapecache/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

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

}  // namespace tapecache::train
