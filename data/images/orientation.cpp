#include <algorithm>
#include <cstddef>
#include <utility>

#include "tapecache/data/images/decoders.h"

namespace tapecache::data::images {

int exif_orientation(std::string_view exif) {
  const bool little = exif.starts_with(std::string_view("II*\0", 4));
  if (!little && !exif.starts_with(std::string_view("MM\0*", 4))) return 1;
  // 0 for what lies behind the end, which is no valid value of any field here.
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::uint32_t value = 0;
    if (at > exif.size() || bytes > exif.size() - at) return value;
    for (std::size_t i = 0; i < bytes; ++i) {
      const std::size_t place = little ? bytes - 1 - i : i;
      value = value << 8 | static_cast<unsigned char>(exif[at + place]);
    }
    return value;
  };
  constexpr std::uint32_t kOrientation = 0x0112, kShort = 3, kLong = 4;
  constexpr std::size_t kEntry = 12;
  const std::size_t directory = number(4, 4), entries = number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t at = directory + 2 + i * kEntry;
    if (number(at, 2) != kOrientation) continue;
    const std::uint32_t type = number(at + 2, 2), value = number(at + 8, type == kLong ? 4 : 2);
    return (type == kShort || type == kLong) && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image oriented(Image image, int orientation) {
  if (orientation == 1) return image;
  // Of EXIF's eight, which sides of the picture are mirrored, after its axes were swapped or not.
  const bool swapped = orientation >= 5;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image result{swapped ? image.height : image.width, swapped ? image.width : image.height, image.channels,
               std::vector<std::uint8_t>(image.pixels.size())};
  std::uint8_t* target = result.pixels.data();
  const auto channels = static_cast<std::size_t>(image.channels);
  for (int y = 0; y < result.height; ++y) {
    for (int x = 0; x < result.width; ++x) {
      const int along = swapped ? y : x, across = swapped ? x : y;
      const auto column = static_cast<std::size_t>(from_right ? image.width - 1 - along : along);
      const auto row = static_cast<std::size_t>(from_below ? image.height - 1 - across : across);
      const std::size_t pixel = row * static_cast<std::size_t>(image.width) + column;
      target = std::copy_n(image.pixels.data() + pixel * channels, channels, target);
    }
  }
  return result;
}

}  // namespace tapecache::data::images
