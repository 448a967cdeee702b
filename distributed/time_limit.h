#pragma once

#include <chrono>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::distributed::detail {

/// Added to a point of time, more than this could leave the range of the clock.
inline constexpr std::chrono::milliseconds kLongestLimit = std::chrono::hours(24 * 365);

/// Throws ValueError for a limit below 0 or above a year.
inline void check_limit(const char* whose, std::chrono::milliseconds limit) {
  if (limit.count() >= 0 && limit <= kLongestLimit) return;
  throw ValueError(fmt::format("{}: a limit of {} ms, expected 0 for none, or up to a year of {} ms", whose,
                               limit.count(), kLongestLimit.count()));
}

}  // namespace tapecache::distributed::detail
