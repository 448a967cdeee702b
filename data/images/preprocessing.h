#pragma once

#include <array>
#include <filesystem>
#include <optional>

#include "tapecache/data/resize.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::images {

struct Size {
  int width = 0, height = 0;
  bool operator==(const Size&) const = default;
};

/// What a folder's files say is done to a picture.
struct Preprocessing {
  enum class Fit {
    kNone,      ///< it stays as large as it is
    kExact,     ///< to `size`
    kShortest,  ///< its shorter side becomes size.width, the other one is rounded down
    kCover,     ///< it just covers `size`, sides being rounded to the nearest
    kWithin,    ///< it just fits into `size`, in the same way
  };

  Fit fit = Fit::kNone;
  Size size = {};
  Image::Resampling filter = Image::Resampling::kBicubic;
  std::optional<Size> crop = {};  ///< from the centre; what is smaller is filled up
  /// Where a centre lies between two pixels: torchvision takes the one of even number (and pads rather behind), and
  /// transformers the one before (and pads rather before).
  bool centre_to_even = false;
  std::uint8_t fill = 0;
  bool orient = true;  ///< whether the folder's library turns a file as its EXIF orientation says
  std::array<std::array<float, 256>, 3> values = {};  ///< what a sample becomes, by its channel
};

/// Throws FileError naming the field that is malformed, or would change the result and is not supported.
Preprocessing read_preprocessing(const std::filesystem::path& folder_or_file);

/// How large a picture is made before it is cropped.
Size resized_size(const Preprocessing& steps, Size picture);

}  // namespace tapecache::data::images

#pragma GCC visibility pop
