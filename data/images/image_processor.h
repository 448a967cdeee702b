#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "tapecache/core/tensor.h"
#include "tapecache/data/image.h"

/// From an image's file to what a published model takes.
namespace tapecache::data {

struct ImageReadOptions {
  /// The most pixels of a picture that Pillow takes. Such a picture needs about 1.5 GB while it is decoded.
  static constexpr std::int64_t kMaxPixels = 178'956'970;

  bool orient = true;       ///< turn and mirror the picture as its EXIF orientation says
  bool over_white = false;  ///< lay what is transparent over white; else transparency is dropped, as by Pillow
  std::int64_t max_pixels = kMaxPixels;
};

/// Decodes a JPEG or a PNG of any kind to RGB: what Pillow's `convert("RGB")` gives, which clips grey of 16 bits at 255
/// and drops transparency. `name` is for messages. Throws FileError for what is neither, malformed, truncated or of too
/// many pixels; and std::bad_alloc.
Image decode_image(std::string_view bytes, const std::string& name, const ImageReadOptions& options = {});

/// The same of a file of at most 1 GiB.
Image read_image(const std::filesystem::path& path, const ImageReadOptions& options = {});

struct ImageProcessorOptions {
  bool over_white = false;
  std::int64_t max_pixels = ImageReadOptions::kMaxPixels;
};

/// Resizes, crops and normalises images as a published model's files say: `preprocessor_config.json` (of
/// CLIPImageProcessor, SiglipImageProcessor, ViTImageProcessor and BitImageProcessor), `image_processor` within
/// `processor_config.json`, or OpenCLIP's `open_clip_config.json`. Its pixels are those of transformers' processors
/// that use Pillow, and of OpenCLIP's transform for evaluation, to the bit where these decode by the same libjpeg.
///
/// Files are turned as their EXIF orientation says where the folder is transformers', which reads them so, and are not
/// where it is OpenCLIP's. Calls from several threads are safe.
class ImageProcessor {
 public:
  /// Part of a picture that training sees in the place of the whole: as OpenCLIP and torchvision crop at random.
  struct Augmentation {
    /// Of the crop, as a share of the picture's; the largest is 1. Where this is 1, images are what they are otherwise.
    double smallest_area = 0.9;
    double widest = 4.0 / 3;  ///< the ratio of the crop's sides is between 1 / widest and widest
    double flip = 0;          ///< how probable it is that left and right are exchanged
    std::uint64_t seed = 0;
  };

  /// Throws FileError naming the field that is malformed or would change the result and is not supported.
  static ImageProcessor load(const std::filesystem::path& folder_or_file, const ImageProcessorOptions& options = {});

  ImageProcessor(ImageProcessor&&) noexcept;
  ImageProcessor& operator=(ImageProcessor&&) noexcept;
  ~ImageProcessor();

  /// f32 [3, height, width] of an RGB picture. Throws ValueError for another one.
  Tensor process(const Image& image) const;
  /// The same of a file. Throws as `read_image`.
  Tensor process(const std::filesystem::path& file) const;
  /// f32 [files, 3, height, width], on all threads. Throws ShapeError where sizes differ, as without a crop.
  Tensor process_batch(std::span<const std::filesystem::path> files) const;

  // In two steps, for batches that are kept as bytes: a quarter of the memory.
  /// u8 [height, width, 3]: resized and cropped.
  Tensor pixels(const std::filesystem::path& file) const;
  /// u8 [height, width, 3] of a crop at random, which depends on seed, epoch and sample alone. Throws ValueError where
  /// the folder does not say the size of the result, and for probabilities and areas outside of [0, 1].
  Tensor pixels(const std::filesystem::path& file, const Augmentation& augmentation, std::uint32_t epoch,
                std::uint32_t sample) const;
  /// f32 [batch, 3, height, width] of u8 [batch, height, width, 3].
  Tensor normalize(const Tensor& pixels) const;

  /// Of every result; 0 where it depends on the picture.
  int height() const;
  int width() const;
  /// What is done to a picture, in a line.
  std::string description() const;

 private:
  struct State;
  explicit ImageProcessor(std::unique_ptr<const State> state);

  std::unique_ptr<const State> state_;
};

}  // namespace tapecache::data
