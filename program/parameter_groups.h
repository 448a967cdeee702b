#pragma once

#include <string>
#include <string_view>

namespace tapecache::program {

/// What a parameter is listed under: its name up to the first number, "encoder.layer.3" of
/// "encoder.layer.3.attention.self.query.weight"; without one, its name but for the last part.
std::string group_of(std::string_view parameter);

}  // namespace tapecache::program
