#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tapecache::program {

/// The pairs to hold out, ascending: about a share of all, at most `most`. All pairs of one anchor, which have one
/// number (`PairsFile::anchor_numbers`), are held out together.
std::vector<std::int64_t> held_out(std::span<const std::uint64_t> anchors, double share, std::int64_t most,
                                   std::uint64_t seed);

}  // namespace tapecache::program
