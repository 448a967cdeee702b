#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "pairs_file.h"
#include "tapecache/models/pretrained.h"
#include "text_model.h"

namespace tapecache::program {

struct ImageOptions {
  bool over_white = false;  ///< lay what is transparent over white
  double crop = 0.9;        ///< in training, the smallest area of a crop at random; 1: none
  double flip = 0;          ///< in training, how probable it is that left and right are exchanged
};

/// A folder's model with its preprocessing of images.
class ImageEncoder {
 public:
  /// Throws FileError for a model that encodes no images, or preprocessing that cannot be done or gives other sizes
  /// than the model takes; ValueError where the library was built without images, and for options out of range.
  ImageEncoder(const models::Pretrained& model, const ImageOptions& options);
  ~ImageEncoder();

  std::string description() const;
  /// u8 [files, size, size, 3], which a step is given, and room for so many.
  Tensor pixels(std::span<const ImageFile> files) const;
  Tensor empty_pixels(std::int64_t files) const;
  /// Reads one into its place; the second as training sees it, by (seed, epoch, sample) alone. Throw FileError that
  /// says where the file was named, too.
  void read(const ImageFile& file, std::uint8_t* pixels) const;
  void read_for_training(const ImageFile& file, std::uint64_t seed, std::uint32_t epoch, std::uint32_t sample,
                         std::uint8_t* pixels) const;
  /// [batch, width] of pixels, so that inner products are the model's similarity.
  Variable representations(const Tensor& pixels) const;
  /// [files, width], f32 on the host, as the model gives them.
  Tensor embed(std::span<const ImageFile> files, const EmbedOptions& options = {}) const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

}  // namespace tapecache::program
