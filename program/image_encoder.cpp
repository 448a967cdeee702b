#include "image_encoder.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/normalize.h"
#ifdef TAPECACHE_HAS_IMAGES
#include "tapecache/data/images/image_processor.h"
#endif

namespace tapecache::program {

#ifdef TAPECACHE_HAS_IMAGES

struct ImageEncoder::State {
  models::Pretrained model;
  ImageOptions options;
  data::ImageProcessor processor;

  std::int64_t size() const { return processor.width(); }  // of each side
  std::size_t bytes() const { return static_cast<std::size_t>(size() * size() * 3); }
};

namespace {

data::ImageProcessor processor_of(const models::Pretrained& model, const ImageOptions& options) {
  const models::Pretrained::Info& info = model.info();
  const std::filesystem::path& folder = model.processor_folder();
  if (info.image_size == 0) {
    throw FileError(fmt::format("{}: the model ({}) encodes no images", folder.string(), info.architecture));
  }
  data::ImageProcessor processor = data::ImageProcessor::load(folder, {.over_white = options.over_white});
  const std::int64_t width = processor.width(), patch = info.image_patch;
  const bool fits = width == info.image_size || (patch > 0 && width > 0 && width % patch == 0);
  if (!fits || processor.height() != width || info.image_channels != 3) {
    const std::string found = processor.width() == 0 ? "of the size of each picture"
                                                     : fmt::format("of {} x {}", processor.width(), processor.height());
    throw FileError(
        fmt::format("{}: its preprocessing gives images {} with 3 channels, its model takes {} x {}{} with {}",
                    folder.string(), found, info.image_size, info.image_size,
                    patch > 0 ? fmt::format(", or others whose sides are alike and multiples of {},", patch) : "",
                    info.image_channels));
  }
  return processor;
}

template <class Read>
void read_into(const ImageFile& file, std::uint8_t* pixels, Read read) {
  try {
    const Tensor found = read();
    std::memcpy(pixels, found.raw(), found.bytes());
  } catch (const FileError& e) {
    throw FileError(file.where.empty() ? e.what() : fmt::format("{}: {}", file.where, e.what()));
  }
}

}  // namespace

ImageEncoder::ImageEncoder(const models::Pretrained& model, const ImageOptions& options)
    : state_(new State{model, options, processor_of(model, options)}) {}

std::string ImageEncoder::description() const { return state_->processor.description(); }

void ImageEncoder::read(const ImageFile& file, std::uint8_t* pixels) const {
  read_into(file, pixels, [&] { return state_->processor.pixels(file.path); });
}

void ImageEncoder::read_for_training(const ImageFile& file, std::uint64_t seed, std::uint32_t epoch,
                                     std::uint32_t sample, std::uint8_t* pixels) const {
  const ImageOptions& o = state_->options;
  if (o.crop >= 1 && o.flip <= 0) return read(file, pixels);
  read_into(file, pixels, [&] {
    return state_->processor.pixels(file.path, {.smallest_area = o.crop, .flip = o.flip, .seed = seed}, epoch, sample);
  });
}

Tensor ImageEncoder::empty_pixels(std::int64_t files) const {
  return Tensor::empty({files, state_->size(), state_->size(), 3}, DType::kUInt8);
}

Tensor ImageEncoder::pixels(std::span<const ImageFile> files) const {
  Tensor all = empty_pixels(static_cast<std::int64_t>(files.size()));
  auto* const bytes = reinterpret_cast<std::uint8_t*>(all.mutable_raw());
  parallel_for(all.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      read(files[i], bytes + i * state_->bytes());
    }
  });
  return all;
}

Variable ImageEncoder::representations(const Tensor& pixels) const {
  const models::Pretrained::Info& info = state_->model.info();
  const Variable encoded = state_->model.encode_images(state_->processor.normalize(pixels));
  return info.normalized || info.similarity != "cosine" ? encoded : ops::l2_normalize(encoded);
}

Tensor ImageEncoder::embed(std::span<const ImageFile> files, const EmbedOptions& options) const {
  const WithoutDropout without(state_->model);
  const NoRecording no_tape;
  const Autocast precision(options.autocast);
  const std::int64_t width = state_->model.info().width;
  Tensor result = Tensor::empty({static_cast<std::int64_t>(files.size()), width});
  float* rows = result.mutable_data<float>();
  constexpr std::size_t kBatch = 32;
  for (std::size_t first = 0; first < files.size(); first += kBatch) {
    const std::span some = files.subspan(first, std::min(kBatch, files.size() - first));
    const Tensor vectors = state_->model.encode_images(state_->processor.normalize(pixels(some)))
                               .value()
                               .to(Device::cpu())
                               .to(DType::kFloat32);
    rows = std::copy_n(vectors.data<float>(), vectors.numel(), rows);
    if (options.observer) options.observer(static_cast<std::int64_t>(first + some.size()));
  }
  return result;
}

#else

struct ImageEncoder::State {};

namespace {
[[noreturn]] void refuse() {
  throw ValueError(
      "images: this tapecache was built without them, which need libjpeg-turbo and libpng (-Dimages=enabled)");
}
}  // namespace

ImageEncoder::ImageEncoder(const models::Pretrained&, const ImageOptions&) { refuse(); }
std::string ImageEncoder::description() const { refuse(); }
void ImageEncoder::read(const ImageFile&, std::uint8_t*) const { refuse(); }
void ImageEncoder::read_for_training(const ImageFile&, std::uint64_t, std::uint32_t, std::uint32_t,
                                     std::uint8_t*) const {
  refuse();
}
Tensor ImageEncoder::empty_pixels(std::int64_t) const { refuse(); }
Tensor ImageEncoder::pixels(std::span<const ImageFile>) const { refuse(); }
Variable ImageEncoder::representations(const Tensor&) const { refuse(); }
Tensor ImageEncoder::embed(std::span<const ImageFile>, const EmbedOptions&) const { refuse(); }

#endif

ImageEncoder::~ImageEncoder() = default;

}  // namespace tapecache::program
