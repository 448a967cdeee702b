#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <utility>

namespace tapecache::models::detail {

/// Throws ValueError, in the name of `what` and with all sizes, unless each is at least 1.
void require_sizes(std::string_view what, std::initializer_list<std::pair<const char*, std::int64_t>> sizes);

}  // namespace tapecache::models::detail
