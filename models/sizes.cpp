#include "tapecache/models/sizes.h"

#include <algorithm>
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

}  // namespace tapecache::models::detail
