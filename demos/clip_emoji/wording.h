#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace clip_emoji {

/// "41.2 %"
std::string percent(double share);
/// "3,412"
std::string grouped(std::int64_t count);
/// "1,180 MiB", "12.5 MiB"
std::string mebibytes(std::size_t bytes);
/// "2.1×10⁻⁷", and "0.97" where no exponent is needed.
std::string scientific(double value);
/// "8.3 s", "4 min 10 s"
std::string duration(double seconds);

}  // namespace clip_emoji
