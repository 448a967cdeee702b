#pragma once

#include <string>

namespace clip_emoji {

/// Runs gnuplot on a script and gives what it prints. Throws tapecache::Error with gnuplot's message, or naming the
/// package where it is not installed.
std::string run_gnuplot(const std::string& script);

}  // namespace clip_emoji
