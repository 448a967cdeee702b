#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <utility>

#pragma GCC visibility push(hidden)

namespace tapecache::models::detail {

/// Throws ValueError, in the name of `what` and with all sizes, unless each is at least 1.
void require_sizes(std::string_view what, std::initializer_list<std::pair<const char*, std::int64_t>> sizes);

/// Throws ValueError, in the name of `what`, outside [0, 1).
void require_probability(std::string_view what, const char* name, double found);

/// Throws ValueError, in the name of `what`, unless it is above 0 and finite.
void require_epsilon(std::string_view what, double epsilon);

}  // namespace tapecache::models::detail

#pragma GCC visibility pop
