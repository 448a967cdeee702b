#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emoji_source.h"

namespace clip_emoji {

/// The text of a pair: its name, then the keywords that the name has not said already, as in "man running: medium
/// skin tone, marathon, racing".
std::string caption(const EmojiPair& pair);

/// Indices into the pairs, ascending, each pair on exactly one side.
struct Split {
  std::vector<std::size_t> train;
  std::vector<std::size_t> held_out;
};

/// Holds out about `held_out_fraction` of the pairs of every group, keeping pairs with equal base or equal picture
/// (the flags of Norway and of Svalbard) together, so that no held-out picture was seen in training. The same pairs,
/// fraction and seed give the same split everywhere. Throws tapecache::ValueError unless the fraction is in [0, 1).
Split split_by_base(const std::vector<EmojiPair>& pairs, double held_out_fraction, std::uint64_t seed);

}  // namespace clip_emoji
