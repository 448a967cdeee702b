#include "tapecache/data/image.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::data {
namespace {

/// The source samples `[first, first + count)` that one result sample covers; their weights, which sum to 1, begin
/// at `weights` in the table.
struct Span {
  int first;
  int count;
  std::size_t weights;
};

struct AreaFilter {
  std::vector<Span> spans;
  std::vector<float> weights;

  AreaFilter(int source, int target) {
    const double scale = static_cast<double>(source) / target;
    for (int i = 0; i < target; ++i) {
      const double begin = i * scale;
      const double end = (i + 1) * scale;
      const int first = std::min(static_cast<int>(begin), source - 1);
      const int last = std::clamp(static_cast<int>(std::ceil(end)), first + 1, source);
      spans.push_back({first, last - first, weights.size()});
      double sum = 0.0;
      for (int s = first; s < last; ++s) {
        sum += std::max(0.0, std::min<double>(end, s + 1) - std::max<double>(begin, s));
      }
      for (int s = first; s < last; ++s) {
        const double covered = std::max(0.0, std::min<double>(end, s + 1) - std::max<double>(begin, s));
        weights.push_back(static_cast<float>(covered / sum));
      }
    }
  }
};

std::size_t sample_count(int width, int height, int channels) {
  return static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * static_cast<std::size_t>(channels);
}

}  // namespace

void Image::check(const char* operation) const {
  if (width < 1 || height < 1 || channels < 1 || channels > 4) {
    throw ValueError(fmt::format("{}: image is {} x {} with {} channels, expected positive sizes and 1 to 4 channels",
                                 operation, width, height, channels));
  }
  const std::size_t expected = sample_count(width, height, channels);
  if (pixels.size() != expected) {
    throw ValueError(fmt::format("{}: image of {} x {} x {} holds {} bytes, expected {}", operation, height, width,
                                 channels, pixels.size(), expected));
  }
}

Image resize_area(const Image& image, int width, int height) {
  image.check("resize_area");
  if (width < 1 || height < 1) {
    throw ValueError(fmt::format("resize_area: target is {} x {}, expected positive sizes", width, height));
  }
  const int channels = image.channels;
  const std::size_t source_row = sample_count(image.width, 1, channels);
  const std::size_t target_row = sample_count(width, 1, channels);
  const AreaFilter rows(image.height, height);
  const AreaFilter columns(image.width, width);

  Image result{width, height, channels, std::vector<std::uint8_t>(sample_count(width, height, channels))};
  std::vector<float> blended(source_row);
  for (int y = 0; y < height; ++y) {
    const Span& row = rows.spans[static_cast<std::size_t>(y)];
    std::fill(blended.begin(), blended.end(), 0.0f);
    for (int k = 0; k < row.count; ++k) {
      const float weight = rows.weights[row.weights + static_cast<std::size_t>(k)];
      const std::uint8_t* source = image.pixels.data() + static_cast<std::size_t>(row.first + k) * source_row;
      for (std::size_t i = 0; i < source_row; ++i) blended[i] += weight * static_cast<float>(source[i]);
    }
    std::uint8_t* target = result.pixels.data() + static_cast<std::size_t>(y) * target_row;
    for (const Span& column : columns.spans) {
      for (int c = 0; c < channels; ++c) {
        float sum = 0.0f;
        for (int k = 0; k < column.count; ++k) {
          sum += columns.weights[column.weights + static_cast<std::size_t>(k)] *
                 blended[sample_count(column.first + k, 1, channels) + static_cast<std::size_t>(c)];
        }
        *target++ = static_cast<std::uint8_t>(std::clamp(sum + 0.5f, 0.0f, 255.0f));
      }
    }
  }
  return result;
}

Image composite_over_white(const Image& rgba, Image::Alpha alpha) {
  rgba.check("composite_over_white");
  if (rgba.channels != 4) {
    throw ValueError(fmt::format("composite_over_white: image has {} channels, expected 4 (RGBA)", rgba.channels));
  }
  Image result{rgba.width, rgba.height, 3, std::vector<std::uint8_t>(sample_count(rgba.width, rgba.height, 3))};
  const std::uint8_t* source = rgba.pixels.data();
  for (std::size_t target = 0; target < result.pixels.size(); target += 3, source += 4) {
    const int opacity = source[3];
    for (std::size_t c = 0; c < 3; ++c) {
      const int colour = alpha == Image::Alpha::premultiplied ? source[c] : (source[c] * opacity + 127) / 255;
      result.pixels[target + c] = static_cast<std::uint8_t>(std::min(255, colour + 255 - opacity));
    }
  }
  return result;
}

Image pad_to_square(const Image& image, std::uint8_t fill) {
  image.check("pad_to_square");
  const int side = std::max(image.width, image.height);
  Image result{side, side, image.channels, std::vector<std::uint8_t>(sample_count(side, side, image.channels), fill)};
  const std::size_t row_bytes = sample_count(image.width, 1, image.channels);
  const int left = (side - image.width) / 2;
  const int top = (side - image.height) / 2;
  for (int y = 0; y < image.height; ++y) {
    std::copy_n(
        image.pixels.data() + static_cast<std::size_t>(y) * row_bytes, row_bytes,
        result.pixels.data() + sample_count(side, top + y, image.channels) + sample_count(left, 1, image.channels));
  }
  return result;
}

}  // namespace tapecache::data
