#include "tapecache/data/png.h"

#include <png.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/files.h"

namespace tapecache::data {
namespace {

constexpr std::array<png_uint_32, 4> kFormats = {PNG_FORMAT_GRAY, PNG_FORMAT_GA, PNG_FORMAT_RGB, PNG_FORMAT_RGBA};

/// Releases what libpng attached to its control structure, whichever way the scope is left.
struct PngControl {
  png_image value{};
  PngControl() { value.version = PNG_IMAGE_VERSION; }
  PngControl(const PngControl&) = delete;
  PngControl& operator=(const PngControl&) = delete;
  ~PngControl() { png_image_free(&value); }
};

std::vector<std::uint8_t> encode(const Image& image) {
  PngControl png;
  png.value.width = static_cast<png_uint_32>(image.width);
  png.value.height = static_cast<png_uint_32>(image.height);
  png.value.format = kFormats[static_cast<std::size_t>(image.channels - 1)];
  // The bound holds for any content, so that one pass compresses straight into the result.
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png.value);
  std::vector<std::uint8_t> bytes(size);
  if (png_image_write_to_memory(&png.value, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) == 0) {
    throw FileError(fmt::format("write_png: libpng: {}", png.value.message));
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace

void write_png(const std::filesystem::path& path, const Image& image) {
  image.check("write_png");
  const std::vector<std::uint8_t> bytes = encode(image);
  write_file_atomically(path, std::string_view{reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace tapecache::data
