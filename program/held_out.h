#pragma once

#include <cstdint>
#include <deque>
#include <vector>

namespace tapecache::program {

/// The pairs to hold out, ascending: about a share of all, at most `most`. All pairs of one anchor, which have one
/// number (`PairsFile::anchor_numbers`), are held out together.
std::vector<std::int64_t> held_out(const std::deque<std::uint32_t>& anchors, double share, std::int64_t most,
                                   std::uint64_t seed);

}  // namespace tapecache::program
