#pragma once

#include <cstdint>
#include <utility>

#include "pairs_file.h"

namespace tapecache::program {

/// Pairs for training and, apart, those held out: about a share of all, at most `most`. Pairs of one anchor are on one
/// side.
std::pair<Pairs, Pairs> held_out(const Pairs& pairs, double share, std::int64_t most, std::uint64_t seed);

}  // namespace tapecache::program
