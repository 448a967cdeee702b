#pragma once

#include <cstdint>
#include <string_view>

#include "tapecache/core/language.h"

namespace tapecache::train {

/// Learning rate of a step counted from 0: linear from peak/warmup to peak over the first `warmup` steps, then half a
/// cosine down to `floor`, reached at step `total` (Loshchilov & Hutter 2017). Steps past `total` get the floor.
/// Throws ValueError unless step >= 0, 0 <= warmup <= total, total >= 1 and 0 <= floor <= peak.
double warmup_cosine(std::int64_t step, std::int64_t warmup, std::int64_t total, double peak, double floor = 0.0);

/// Schedules by the names of transformers' `get_scheduler`.
enum class Schedule { kConstant, kConstantWithWarmup, kLinear, kCosine, kCosineWithRestarts };
/// The schedule of a name, such as "cosine_with_restarts". Throws ValueError.
Schedule schedule(std::string_view name);

/// Factor of the peak learning rate of a step counted from 0, as transformers computes it: step / warmup over the first
/// `warmup` steps (constant has none), of which the first has a rate of 0; then down to 0 at step `total`, but for the
/// constant ones. `cycles` is how often kCosineWithRestarts begins anew. Throws ValueError unless step and warmup are
/// at least 0, total and cycles at least 1.
double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t warmup, std::int64_t total, int cycles = 1);

}  // namespace tapecache::train
