#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tapecache/data/image.h"

#pragma GCC visibility push(hidden)

namespace tapecache::data::images {

struct DecodeOptions {
  const std::string& name;  ///< of the file, for messages
  std::int64_t max_pixels;
  bool over_white;  ///< lay what is transparent over white; else transparency is dropped, as by Pillow
};

struct Decoded {
  Image image = {};     ///< RGB
  int orientation = 1;  ///< EXIF's
};

/// Both throw FileError for what is malformed, truncated or larger than the limit, and std::bad_alloc.
Decoded decode_jpeg(std::string_view bytes, const DecodeOptions& options);
Decoded decode_png(std::string_view bytes, const DecodeOptions& options);

/// Throws FileError for more pixels than the limit.
void check_pixels(std::uint64_t width, std::uint64_t height, const DecodeOptions& options);

/// The orientation, 1 to 8, that an EXIF block (which begins with TIFF's header) gives; 1 where it gives none.
int exif_orientation(std::string_view exif);
/// The picture turned and mirrored as an orientation says.
Image oriented(Image image, int orientation);

}  // namespace tapecache::data::images

#pragma GCC visibility pop
