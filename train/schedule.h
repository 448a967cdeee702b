#pragma once

#include <cstdint>

#include "tapecache/core/language.h"

namespace tapecache::train {

/// Learning rate of a step counted from 0: linear from peak/warmup to peak over the first `warmup` steps, then half a
/// cosine down to `floor`, reached at step `total` (Loshchilov & Hutter 2017). Steps past `total` get the floor.
/// Throws ValueError unless step >= 0, 0 <= warmup <= total, total >= 1 and 0 <= floor <= peak.
double warmup_cosine(std::int64_t step, std::int64_t warmup, std::int64_t total, double peak, double floor = 0.0);

}  // namespace tapecache::train
