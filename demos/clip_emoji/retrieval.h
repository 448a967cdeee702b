#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "dataset.h"
#include "tapecache/data/image.h"

namespace clip_emoji {

/// One caption with the pictures found for it, the best first.
struct RetrievalRow {
  std::string caption;
  std::int64_t right = 0;           ///< the pair that the caption belongs to
  std::vector<std::int64_t> found;  ///< pairs
  std::vector<double> similarity;   ///< of each found one, in [-1, 1]
};

/// For `count` captions spread over the held-out pairs, the `best` nearest held-out pictures. Representations are rows
/// in the order of `data.held_out`, of length 1.
std::vector<RetrievalRow> retrieve(const Dataset& data, const tapecache::Tensor& texts, const tapecache::Tensor& images,
                                   std::int64_t count, std::int64_t best);

/// The pictures at a size for people: in the order of `pairs`, RGB, `size` pixels square.
std::vector<tapecache::data::Image> large_pictures(const EmojiPaths& paths, int size);

/// Draws the rows: caption, its own emoji, then those found, the right one framed. `pictures` are by pair. Throws
/// tapecache::FileError where no font for the captions is found.
tapecache::data::Image draw_retrieval(const std::vector<RetrievalRow>& rows,
                                      const std::vector<tapecache::data::Image>& pictures);

}  // namespace clip_emoji
