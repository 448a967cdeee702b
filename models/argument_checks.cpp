#include "tapecache/models/argument_checks.h"

#include <algorithm>
#include <cmath>
#include <string>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::models::detail {

void require_sizes(std::string_view what, std::initializer_list<std::pair<const char*, std::int64_t>> sizes) {
  if (std::ranges::all_of(sizes, [](const auto& size) { return size.second >= 1; })) return;
  std::string found;
  for (const auto& [name, size] : sizes) found += fmt::format("{}{} {}", found.empty() ? "" : ", ", name, size);
  throw ValueError(fmt::format("{}: {}; each must be at least 1", what, found));
}

void require_probability(std::string_view what, const char* name, double found) {
  if (!(found >= 0 && found < 1)) throw ValueError(fmt::format("{}: {} is {}, expected 0 <= p < 1", what, name, found));
}

void require_epsilon(std::string_view what, double epsilon) {
  if (!(epsilon > 0 && std::isfinite(epsilon))) {
    throw ValueError(fmt::format("{}: epsilon is {}, expected above 0 and finite", what, epsilon));
  }
}

}  // namespace tapecache::models::detail
