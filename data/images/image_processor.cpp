#include "tapecache/data/images/image_processor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/random.h"
#include "tapecache/data/images/preprocessing.h"

namespace tapecache::data {

using images::Preprocessing;
using images::Size;

struct [[gnu::visibility("hidden")]] ImageProcessor::State {
  Preprocessing steps;
  ImageReadOptions read;

  /// Of every result; empty where it depends on the picture.
  Size size() const {
    if (steps.crop) return *steps.crop;
    return steps.fit == Preprocessing::Fit::kExact ? steps.size : Size{};
  }
};

namespace {

/// Along one axis: where a crop's first pixel lies in the picture, and the picture's first in the crop.
struct Offset {
  int picture, crop;
};

Offset centred(int picture, int crop, bool to_even) {
  const int spare = std::abs(picture - crop), half = spare / 2;
  const bool between = spare % 2 == 1;
  if (picture >= crop) return {to_even && between && half % 2 == 1 ? half + 1 : half, 0};
  return {0, to_even || !between ? half : half + 1};
}

/// The picture resized and then cropped, or filled up, of which only what remains is computed.
Image prepared(const Image& image, const Preprocessing& steps) {
  const Size whole = images::resized_size(steps, {image.width, image.height});
  const Size size = steps.crop.value_or(whole);
  const Offset x = centred(whole.width, size.width, steps.centre_to_even);
  const Offset y = centred(whole.height, size.height, steps.centre_to_even);
  const int width = std::min(whole.width, size.width), height = std::min(whole.height, size.height);
  if (static_cast<std::int64_t>(size.width) * size.height > ImageReadOptions::kMaxPixels) {
    throw ValueError(
        fmt::format("ImageProcessor: a picture of {} x {} becomes one of {} x {}, expected at most {} pixels",
                    image.width, image.height, size.width, size.height, ImageReadOptions::kMaxPixels));
  }
  Image inner =
      images::resize_region(image, whole.width, whole.height, steps.filter, {x.picture, y.picture, width, height});
  if (Size{width, height} == size) return inner;
  Image result{size.width, size.height, 3,
               std::vector<std::uint8_t>(
                   static_cast<std::size_t>(size.width) * static_cast<std::size_t>(size.height) * 3, steps.fill)};
  const std::size_t row = static_cast<std::size_t>(width) * 3;
  for (int line = 0; line < height; ++line) {
    const auto target = static_cast<std::size_t>(y.crop + line) * static_cast<std::size_t>(size.width);
    std::copy_n(inner.pixels.data() + static_cast<std::size_t>(line) * row, row,
                result.pixels.data() + (target + static_cast<std::size_t>(x.crop)) * 3);
  }
  return result;
}

void check_rgb(const Image& image) {
  image.check("ImageProcessor");
  if (image.channels != 3) {
    throw ValueError(fmt::format("ImageProcessor: image has {} channels, expected 3 (RGB)", image.channels));
  }
}

Tensor bytes_of(const Image& image) {
  Tensor pixels = Tensor::empty({image.height, image.width, 3}, DType::kUInt8);
  std::memcpy(pixels.mutable_raw(), image.pixels.data(), image.pixels.size());
  return pixels;
}

void normalize_one(const std::uint8_t* pixels, std::int64_t count, const Preprocessing& steps, float* values) {
  for (std::size_t c = 0; c < 3; ++c) {
    const float* const table = steps.values[c].data();
    for (std::int64_t i = 0; i < count; ++i) *values++ = table[pixels[static_cast<std::size_t>(i) * 3 + c]];
  }
}

/// Numbers of one sample of one epoch, apart from those that ops draw.
class Draws {
 public:
  Draws(std::uint64_t seed, std::uint32_t epoch, std::uint32_t sample) : key_{seed, epoch, kCall}, sample_(sample) {}
  /// In [0, 1).
  double next() {
    if (at_ % 4 == 0) words_ = key_.draw(sample_, at_ / 4);
    return words_[at_++ % 4] * 0x1p-32;
  }
  /// 0 to `most`.
  int whole(int most) { return std::min(most, static_cast<int>(next() * (most + 1.0))); }

 private:
  static constexpr std::uint32_t kCall = 0x696D6167;
  RandomKey key_;
  std::uint32_t sample_, at_ = 0;
  std::array<std::uint32_t, 4> words_ = {};
};

/// A rectangle of a share of the area and a ratio of sides that are drawn; where none of ten lies within the picture,
/// the largest from the centre whose ratio is allowed.
images::Region random_region(const Image& image, const ImageProcessor::Augmentation& augmentation, Draws& draws) {
  const double area = static_cast<double>(image.width) * image.height, most = std::log(augmentation.widest);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double part = area * (augmentation.smallest_area + draws.next() * (1 - augmentation.smallest_area));
    const double ratio = std::exp((2 * draws.next() - 1) * most);
    const double width = std::nearbyint(std::sqrt(part * ratio)), height = std::nearbyint(std::sqrt(part / ratio));
    if (width >= 1 && width <= image.width && height >= 1 && height <= image.height) {
      const int columns = static_cast<int>(width), rows = static_cast<int>(height);
      const int y = draws.whole(image.height - rows), x = draws.whole(image.width - columns);
      return {x, y, columns, rows};
    }
  }
  const auto limited = [&](int side, int other) {
    return std::clamp(static_cast<int>(std::nearbyint(other * augmentation.widest)), 1, side);
  };
  const int width = limited(image.width, image.height), height = limited(image.height, image.width);
  return {(image.width - width) / 2, (image.height - height) / 2, width, height};
}

void mirror(Image& image) {
  const auto width = static_cast<std::size_t>(image.width);
  for (std::size_t row = 0; row < image.pixels.size(); row += width * 3) {
    std::uint8_t* const begin = image.pixels.data() + row;
    for (std::size_t x = 0; x < width / 2; ++x) {
      std::swap_ranges(begin + x * 3, begin + x * 3 + 3, begin + (width - 1 - x) * 3);
    }
  }
}

}  // namespace

ImageProcessor ImageProcessor::load(const std::filesystem::path& folder_or_file, const ImageProcessorOptions& options) {
  auto state = std::make_unique<State>();
  state->steps = images::read_preprocessing(folder_or_file);
  state->read = {state->steps.orient, options.over_white, options.max_pixels};
  return ImageProcessor(std::move(state));
}

ImageProcessor::ImageProcessor(std::unique_ptr<const State> state) : state_(std::move(state)) {}
ImageProcessor::ImageProcessor(ImageProcessor&&) noexcept = default;
ImageProcessor& ImageProcessor::operator=(ImageProcessor&&) noexcept = default;
ImageProcessor::~ImageProcessor() = default;

int ImageProcessor::height() const { return state_->size().height; }
int ImageProcessor::width() const { return state_->size().width; }

Tensor ImageProcessor::process(const Image& image) const {
  check_rgb(image);
  const Tensor pixels = bytes_of(prepared(image, state_->steps));
  return normalize(pixels.reshape({1, pixels.size(0), pixels.size(1), 3})).reshape({3, pixels.size(0), pixels.size(1)});
}

Tensor ImageProcessor::process(const std::filesystem::path& file) const {
  return process(read_image(file, state_->read));
}

Tensor ImageProcessor::process_batch(std::span<const std::filesystem::path> files) const {
  std::vector<Tensor> pixels(files.size());
  parallel_for(static_cast<std::int64_t>(files.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      pixels[i] = this->pixels(files[i]);
  });
  if (files.empty()) return Tensor::empty({0, 3, height(), width()});
  const std::int64_t rows = pixels[0].size(0), columns = pixels[0].size(1);
  Tensor batch = Tensor::empty({static_cast<std::int64_t>(files.size()), 3, rows, columns});
  float* const values = batch.mutable_data<float>();
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (pixels[i].shape() != pixels[0].shape()) {
      throw ShapeError(
          fmt::format("ImageProcessor: {} becomes {} x {} pixels and {} {} x {}, expected equal sizes in a "
                      "batch; a crop (do_center_crop) would make them so",
                      files[0].string(), columns, rows, files[i].string(), pixels[i].size(1), pixels[i].size(0)));
    }
  }
  parallel_for(static_cast<std::int64_t>(files.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      normalize_one(pixels[static_cast<std::size_t>(i)].data<std::uint8_t>(), rows * columns, state_->steps,
                    values + i * 3 * rows * columns);
    }
  });
  return batch;
}

Tensor ImageProcessor::pixels(const std::filesystem::path& file) const {
  return bytes_of(prepared(read_image(file, state_->read), state_->steps));
}

Tensor ImageProcessor::pixels(const std::filesystem::path& file, const Augmentation& augmentation, std::uint32_t epoch,
                              std::uint32_t sample) const {
  const auto [width, height] = state_->size();
  const auto is_share = [](double value) { return value >= 0 && value <= 1; };
  if (width == 0) {
    throw ValueError("ImageProcessor: images have no size of their own to be augmented to, expected a crop");
  }
  if (!is_share(augmentation.smallest_area) || !is_share(augmentation.flip) || !(augmentation.widest >= 1) ||
      !std::isfinite(augmentation.widest)) {
    throw ValueError(fmt::format(
        "ImageProcessor: augmentation with smallest_area {}, flip {} and widest {}, expected 0 to 1, 0 to 1 and at "
        "least 1",
        augmentation.smallest_area, augmentation.flip, augmentation.widest));
  }
  const Image image = read_image(file, state_->read);
  Draws draws(augmentation.seed, epoch, sample);
  Image result;
  if (augmentation.smallest_area < 1) {
    const images::Region region = random_region(image, augmentation, draws);
    const Image part = images::resize_region(image, image.width, image.height, state_->steps.filter, region);
    result = resize(part, width, height, state_->steps.filter);
  } else {
    result = prepared(image, state_->steps);
  }
  if (draws.next() < augmentation.flip) mirror(result);
  return bytes_of(result);
}

Tensor ImageProcessor::normalize(const Tensor& pixels) const {
  if (pixels.dtype() != DType::kUInt8 || pixels.rank() != 4 || pixels.size(3) != 3) {
    throw ShapeError(
        fmt::format("ImageProcessor: pixels are {}, expected u8 [batch, height, width, 3]", describe(pixels)));
  }
  const std::int64_t count = pixels.size(1) * pixels.size(2);
  Tensor values = Tensor::empty({pixels.size(0), 3, pixels.size(1), pixels.size(2)});
  const std::uint8_t* const from = pixels.data<std::uint8_t>();
  float* const to = values.mutable_data<float>();
  parallel_for(pixels.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      normalize_one(from + i * count * 3, count, state_->steps, to + i * count * 3);
  });
  return values;
}

std::string ImageProcessor::description() const {
  constexpr const char* kFilters[] = {"nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"};
  const Preprocessing& steps = state_->steps;
  std::string text;
  const auto add = [&](const std::string& what) { text += (text.empty() ? "" : ", ") + what; };
  const char* const filter = kFilters[static_cast<int>(steps.filter)];
  switch (steps.fit) {
    case Preprocessing::Fit::kNone:
      break;
    case Preprocessing::Fit::kExact:
      add(fmt::format("{} x {} by {}", steps.size.width, steps.size.height, filter));
      break;
    case Preprocessing::Fit::kShortest:
      add(fmt::format("shorter side {} by {}", steps.size.width, filter));
      break;
    case Preprocessing::Fit::kCover:
      add(fmt::format("cover {} x {} by {}", steps.size.width, steps.size.height, filter));
      break;
    case Preprocessing::Fit::kWithin:
      add(fmt::format("within {} x {} by {}", steps.size.width, steps.size.height, filter));
      break;
  }
  if (steps.crop) add(fmt::format("centre {} x {}", steps.crop->width, steps.crop->height));
  // 0 and 255 tell mean and deviation as well as those do.
  add("0 to 255 become");
  for (std::size_t c = 0; c < 3; ++c) {
    text += fmt::format("{} {:.4g} to {:.4g}", c == 0 ? "" : ",", static_cast<double>(steps.values[c].front()),
                        static_cast<double>(steps.values[c].back()));
  }
  return text;
}

}  // namespace tapecache::data
