#pragma once

#include <cstring>
#include <filesystem>
#include <vector>

#include "tapecache/core/tensor.h"
#include "tapecache/data/image.h"

/// What tests/reference/make_images.py has written.
namespace tapecache::testing {

inline const std::filesystem::path kImages = TAPECACHE_IMAGES, kFiles = kImages / "files";

inline data::Image image_of(const Tensor& pixels) {
  const auto* const bytes = pixels.data<std::uint8_t>();
  return {static_cast<int>(pixels.size(1)),
          static_cast<int>(pixels.size(0)),
          static_cast<int>(pixels.size(2)),
          {bytes, bytes + pixels.numel()}};
}

inline bool same_pixels(const data::Image& a, const data::Image& b) {
  return a.width == b.width && a.height == b.height && a.channels == b.channels && a.pixels == b.pixels;
}

/// Pixels that no pattern of a filter agrees with.
inline data::Image noise(int width, int height, int channels = 3) {
  data::Image image{width, height, channels,
                    std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * channels))};
  std::uint32_t state = 1;
  for (std::uint8_t& sample : image.pixels) {
    state = state * 1664525 + 1013904223;
    sample = static_cast<std::uint8_t>(state >> 24);
  }
  return image;
}

}  // namespace tapecache::testing
