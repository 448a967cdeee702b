#pragma once

#include <cstdint>
#include <vector>

#include "tapecache/core/error.h"

namespace tapecache::data {

/// A picture of 8-bit samples `[height, width, channels]`, row-major, rows from top to bottom.
struct Image {
  /// How the colour samples of an RGBA picture relate to its alpha.
  enum class Alpha { straight, premultiplied };

  /// The filters of Pillow's `Image.resize`, by its names.
  enum class Resampling { kNearest, kBox, kBilinear, kHamming, kBicubic, kLanczos };

  int width = 0;
  int height = 0;
  int channels = 0;
  std::vector<std::uint8_t> pixels = {};

  /// Throws ValueError unless the sizes are positive, channels are 1 to 4 and `pixels` holds exactly that many bytes;
  /// `operation` opens the message.
  void check(const char* operation) const;
};

/// Resizes by area averaging to `[height, width, channels]`: each result sample is the mean of the source rectangle
/// it covers, so the mean of the picture is kept to within rounding. Throws ValueError for an empty size.
Image resize_area(const Image& image, int width, int height);

/// Resizes as Pillow's `Image.resize` does, to the bit: the filter is as wide as a result's pixel where the picture
/// shrinks, and each of two passes rounds to 8 bits. Each channel goes by itself (Pillow multiplies by alpha before).
/// Throws ValueError for an empty size.
Image resize(const Image& image, int width, int height, Image::Resampling filter);

/// Lays an RGBA picture over white and returns RGB of the same size. Throws ValueError unless channels are 4.
Image composite_over_white(const Image& rgba, Image::Alpha alpha);

/// Centres a picture in a square with sides of `max(width, height)`, the border filled with `fill`.
Image pad_to_square(const Image& image, std::uint8_t fill);

}  // namespace tapecache::data
