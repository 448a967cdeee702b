#include "target_parts.h"

#ifdef TAPECACHE_HAS_IMAGES
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tapecache/data/images/image_processor.h"

namespace tapecache::testing {

namespace {

void decode_any_image(std::string_view bytes) {
  constexpr std::int64_t kMost = 1 << 18;
  const auto decode = [&](bool over_white, data::Image& image) {
    return takes([&] { image = data::decode_image(bytes, "fuzz", {.over_white = over_white, .max_pixels = kMost}); });
  };
  data::Image image, white;
  const bool taken = decode(false, image);
  require(decode(true, white) == taken, "what is transparent decides whether a picture is taken");
  if (!taken) return;
  image.check("fuzz");
  require(image.channels == 3 && std::int64_t{image.width} * image.height <= kMost,
          "a picture is not RGB, or too large");
  require(image.width == white.width && image.height == white.height, "a picture has two sizes");
  for (const data::Image::Resampling filter : {data::Image::Resampling::kNearest, data::Image::Resampling::kLanczos}) {
    require(data::resize(image, 5, 7, filter).pixels.size() == 105, "a resized picture has another size");
  }
}

std::vector<std::string> image_seeds() {
  return {std::string(
      "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde\0\0\0\x0cIDATx\x9c\x63\xf8\xcf\xc0\0"
      "\0\x03\x01\x01\0\xc9\xfe\x92\xef\0\0\0\0IEND\xae\x42\x60\x82",
      69)};
}

void load_any_preprocessor(std::string_view bytes) {
  const MemoryFile file(bytes);
  std::optional<data::ImageProcessor> processor;
  if (!takes([&] { processor.emplace(data::ImageProcessor::load(file.path())); })) return;
  require(!processor->description().empty(), "a processor says nothing of itself");
  const std::int64_t pixels = std::int64_t{processor->width()} * processor->height();
  if (pixels == 0 || pixels > 1 << 16) return;  // which takes long
  const data::Image image{9, 7, 3, std::vector<std::uint8_t>(189, 200)};
  require(processor->process(image).numel() == 3 * pixels, "an image has another size than its processor says");
}

std::vector<std::string> preprocessor_seeds() {
  return {
      R"({"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 9}, "resample": 3,
"crop_size": {"height": 8, "width": 7}, "rescale_factor": 0.00392156862745098, "image_mean": [0.5, 0.5, 0.5],
"image_std": [0.2, 0.3, 0.4], "do_convert_rgb": true, "do_pad": null})",
      R"({"image_processor": {"feature_extractor_type": "ViTFeatureExtractor", "size": 6, "resample": 2, "image_mean": 0.5}})",
      R"({"model_cfg": {"vision_cfg": {"image_size": [6, 8]}}, "preprocess_cfg": {"resize_mode": "longest",
"interpolation": "bilinear", "fill_color": 3, "mean": [0.1, 0.2, 0.3]}})"};
}

constexpr FuzzTarget kImageTargets[] = {
    {"image", decode_any_image, image_seeds},
    {"preprocessor", load_any_preprocessor, preprocessor_seeds},
};

}  // namespace

std::span<const FuzzTarget> image_targets() { return kImageTargets; }

}  // namespace tapecache::testing
#else
namespace tapecache::testing {

std::span<const FuzzTarget> image_targets() { return {}; }

}  // namespace tapecache::testing
#endif
