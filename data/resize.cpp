#include "tapecache/data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::data {

namespace images {

namespace {

/// Weights are whole multiples of 2^-22, as Pillow has them for 8-bit samples: what is left of 32 bits.
constexpr int kFractionBits = 22;

double sinc(double x) { return x == 0 ? 1.0 : std::sin(x * std::numbers::pi) / (x * std::numbers::pi); }

double box(double x) { return x > -0.5 && x <= 0.5 ? 1 : 0; }
double bilinear(double x) { return std::max(0.0, 1 - std::abs(x)); }
/// Of Hamming's coefficients as f32 rounds them, which Pillow has.
double hamming(double x) {
  constexpr double a = 0.54f, b = 0.46f;
  return std::abs(x) >= 1 ? 0 : sinc(x) * (a + b * std::cos(x * std::numbers::pi));
}
/// Keys' cubic convolution with a = -0.5, where OpenCV has -0.75.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}
double lanczos(double x) { return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

struct Filter {
  double (*weight)(double);
  double support;
};

Filter filter_of(Image::Resampling resampling) {
  switch (resampling) {
    case Image::Resampling::kBox:
      return {box, 0.5};
    case Image::Resampling::kHamming:
      return {hamming, 1};
    case Image::Resampling::kBicubic:
      return {bicubic, 2};
    case Image::Resampling::kLanczos:
      return {lanczos, 3};
    default:
      return {bilinear, 1};
  }
}

/// The source samples that a result sample is the weighted sum of.
struct Taps {
  int first, count;
  std::size_t weights;  ///< where theirs begin
};

struct Axis {
  std::vector<Taps> taps;
  std::vector<std::int32_t> weights;

  /// Of the result's samples [begin, end).
  Axis(int source, int target, const Filter& filter, int begin, int end) {
    const double scale = static_cast<double>(source) / target, stretch = std::max(scale, 1.0);
    const double support = filter.support * stretch;
    std::vector<double> exact;
    for (int i = begin; i < end; ++i) {
      const double centre = (i + 0.5) * scale;
      const int first = std::max(0, static_cast<int>(centre - support + 0.5));
      const int last = std::min(source, static_cast<int>(centre + support + 0.5));
      exact.clear();
      double sum = 0;
      for (int s = first; s < last; ++s) {
        exact.push_back(filter.weight((s - centre + 0.5) * (1 / stretch)));
        sum += exact.back();
      }
      taps.push_back({first, std::max(0, last - first), weights.size()});
      for (const double weight : exact) {
        const double scaled = (sum != 0 ? weight / sum : weight) * (1 << kFractionBits);
        weights.push_back(static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
      }
    }
  }
};

/// Sums are of unsigned numbers, whose overflow would be defined; there is none for weights whose sum is 1.
constexpr std::uint32_t kHalf = std::uint32_t{1} << (kFractionBits - 1);

std::uint8_t rounded(std::uint32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(static_cast<std::int32_t>(sum) >> kFractionBits, 0, 255));
}

Image empty_image(int width, int height, int channels) {
  const std::size_t samples = static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
  return {width, height, channels, std::vector<std::uint8_t>(samples * static_cast<std::size_t>(channels))};
}

const std::uint8_t* row_of(const Image& image, int y) {
  return image.pixels.data() +
         static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.channels);
}
std::uint8_t* row_of(Image& image, int y) { return const_cast<std::uint8_t*>(row_of(std::as_const(image), y)); }

template <int channels>
void resize_row(const std::uint8_t* source, std::uint8_t* target, const Axis& axis) {
  for (const Taps& taps : axis.taps) {
    const std::int32_t* weights = axis.weights.data() + taps.weights;
    const std::uint8_t* pixel = source + static_cast<std::size_t>(taps.first) * channels;
    std::uint32_t sums[channels];
    std::fill_n(sums, channels, kHalf);
    for (int k = 0; k < taps.count; ++k, pixel += channels) {
      for (int c = 0; c < channels; ++c) sums[c] += static_cast<std::uint32_t>(weights[k]) * pixel[c];
    }
    for (int c = 0; c < channels; ++c) *target++ = rounded(sums[c]);
  }
}

/// The result's columns [x, x + count) of the source's rows [first, first + rows).
Image resize_columns(const Image& image, int width, const Filter& filter, int x, int count, int first, int rows) {
  const Axis axis(image.width, width, filter, x, x + count);
  constexpr decltype(&resize_row<1>) kByChannels[] = {resize_row<1>, resize_row<2>, resize_row<3>, resize_row<4>};
  Image result = empty_image(count, rows, image.channels);
  for (int y = 0; y < rows; ++y) {
    kByChannels[image.channels - 1](row_of(image, first + y), row_of(result, y), axis);
  }
  return result;
}

Image resize_rows(const Image& image, const Axis& axis, int first) {
  const std::size_t samples = static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.channels);
  Image result = empty_image(image.width, static_cast<int>(axis.taps.size()), image.channels);
  std::vector<std::uint32_t> sums(samples);
  for (int y = 0; y < result.height; ++y) {
    const Taps& taps = axis.taps[static_cast<std::size_t>(y)];
    std::ranges::fill(sums, kHalf);
    for (int k = 0; k < taps.count; ++k) {
      const auto weight = static_cast<std::uint32_t>(axis.weights[taps.weights + static_cast<std::size_t>(k)]);
      const std::uint8_t* source = row_of(image, taps.first - first + k);
      for (std::size_t i = 0; i < samples; ++i) sums[i] += weight * source[i];
    }
    std::transform(sums.begin(), sums.end(), row_of(result, y), rounded);
  }
  return result;
}

Image crop(const Image& image, const Region& region) {
  Image result = empty_image(region.width, region.height, image.channels);
  const auto channels = static_cast<std::size_t>(image.channels);
  for (int y = 0; y < region.height; ++y) {
    std::copy_n(row_of(image, region.y + y) + static_cast<std::size_t>(region.x) * channels,
                static_cast<std::size_t>(region.width) * channels, row_of(result, y));
  }
  return result;
}

/// Where the nearest pixels of [begin, begin + count) are: Pillow adds up the distance from one to the next, so that
/// its rounding adds up, too.
std::vector<int> nearest(int source, int target, int begin, int count) {
  const double step = static_cast<double>(source) / target;
  std::vector<int> places;
  double at = step * 0.5;
  for (int i = 0; i < begin + count; ++i, at += step) {
    if (i >= begin) places.push_back(std::min(static_cast<int>(at), source - 1));
  }
  return places;
}

Image resize_nearest(const Image& image, int width, int height, const Region& region) {
  const std::vector<int> columns = nearest(image.width, width, region.x, region.width);
  const std::vector<int> rows = nearest(image.height, height, region.y, region.height);
  Image result = empty_image(region.width, region.height, image.channels);
  std::uint8_t* target = result.pixels.data();
  const auto channels = static_cast<std::size_t>(image.channels);
  for (const int y : rows) {
    for (const int x : columns) {
      target = std::copy_n(row_of(image, y) + static_cast<std::size_t>(x) * channels, channels, target);
    }
  }
  return result;
}

}  // namespace

Image resize_region(const Image& image, int width, int height, Image::Resampling resampling, const Region& region) {
  if (width == image.width && height == image.height) return crop(image, region);
  if (resampling == Image::Resampling::kNearest) return resize_nearest(image, width, height, region);
  const Filter filter = filter_of(resampling);
  if (height == image.height) {
    return resize_columns(image, width, filter, region.x, region.width, region.y, region.height);
  }
  const Axis axis(image.height, height, filter, region.y, region.y + region.height);
  int first = image.height, last = 0;  // of the rows that are needed
  for (const Taps& taps : axis.taps) {
    first = std::min(first, taps.first);
    last = std::max(last, taps.first + taps.count);
  }
  if (width == image.width) {
    return resize_rows(crop(image, {region.x, first, region.width, last - first}), axis, first);
  }
  return resize_rows(resize_columns(image, width, filter, region.x, region.width, first, last - first), axis, first);
}

}  // namespace images

Image resize(const Image& image, int width, int height, Image::Resampling filter) {
  image.check("resize");
  if (width < 1 || height < 1) {
    throw ValueError(fmt::format("resize: target is {} x {}, expected positive sizes", width, height));
  }
  return images::resize_region(image, width, height, filter, {0, 0, width, height});
}

}  // namespace tapecache::data
