#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/data/images/decoders.h"

namespace tapecache::data::images {

namespace {

/// libpng's state and what its callbacks need: plain data alone, so that a jump passes over nothing with a destructor.
struct Reader {
  png_structp png;
  png_infop info;
  std::jmp_buf back;
  bool truncated;
  char message[256];
  const char* next;
  std::size_t left;
  bool over_white;
  int passes;
  std::uint8_t* rows;
  std::size_t row_bytes, height;
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  Reader& reader = *static_cast<Reader*>(png_get_error_ptr(png));
  std::snprintf(reader.message, sizeof reader.message, "%s", message);
  std::longjmp(reader.back, 1);
}

/// Of parts that do not change the pixels.
void on_warning(png_structp, png_const_charp) {}

void on_read(png_structp png, png_bytep target, std::size_t count) {
  Reader& reader = *static_cast<Reader*>(png_get_io_ptr(png));
  if (count > reader.left) {
    reader.truncated = true;
    png_error(png, "the file ends before the picture does");
  }
  std::memcpy(target, reader.next, count);
  reader.next += count;
  reader.left -= count;
}

/// Calls libpng; false where it gave up, from within, by a jump to here.
bool guarded(Reader& reader, void (*call)(Reader&)) noexcept {
  if (setjmp(reader.back) != 0) return false;
  call(reader);
  return true;
}

void read_header(Reader& reader) {
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  if (reader.png) reader.info = png_create_info_struct(reader.png);
  if (!reader.info) return;
  png_set_read_fn(reader.png, &reader, on_read);
  png_set_user_limits(reader.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // the limit is one of pixels
  png_read_info(reader.png, reader.info);
}

/// To RGBA, or to what Pillow makes its modes of: palette indices, grey or RGB.
void choose_rows(Reader& reader) {
  const int type = png_get_color_type(reader.png, reader.info), depth = png_get_bit_depth(reader.png, reader.info);
  if (reader.over_white) {
    png_set_expand(reader.png);
    png_set_strip_16(reader.png);
    png_set_gray_to_rgb(reader.png);
    png_set_add_alpha(reader.png, 0xFF, PNG_FILLER_AFTER);
  } else {
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_packing(reader.png);
    if (type == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(reader.png);
    if (type != PNG_COLOR_TYPE_GRAY) png_set_strip_16(reader.png);
    if (type & PNG_COLOR_MASK_ALPHA) png_set_strip_alpha(reader.png);
  }
  reader.passes = png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  reader.row_bytes = png_get_rowbytes(reader.png, reader.info);
}

void read_rows(Reader& reader) {
  for (int pass = 0; pass < reader.passes; ++pass) {
    for (std::size_t y = 0; y < reader.height; ++y) {
      png_read_row(reader.png, reader.rows + y * reader.row_bytes, nullptr);
    }
  }
  png_read_end(reader.png, reader.info);
}

/// Frees what libpng has allocated.
struct Release {
  Reader& reader;
  ~Release() { png_destroy_read_struct(&reader.png, &reader.info, nullptr); }
};

Image rgb_of_palette(const Reader& reader, const Image& indices) {
  png_colorp palette = nullptr;
  int size = 0;
  png_get_PLTE(reader.png, reader.info, &palette, &size);
  Image rgb{indices.width, indices.height, 3, {}};
  rgb.pixels.reserve(indices.pixels.size() * 3);
  for (const std::uint8_t index : indices.pixels) {
    // Behind its end Pillow has black.
    const png_color colour = index < size ? palette[index] : png_color{0, 0, 0};
    rgb.pixels.insert(rgb.pixels.end(), {colour.red, colour.green, colour.blue});
  }
  return rgb;
}

/// Of samples of so many bytes. Pillow clips those of 16 bits, so that nearly all of such a picture is white.
Image rgb_of_grey(const Image& grey, std::size_t bytes) {
  Image rgb{grey.width, grey.height, 3, {}};
  rgb.pixels.reserve(grey.pixels.size() / bytes * 3);
  for (std::size_t i = 0; i < grey.pixels.size(); i += bytes) {
    const std::uint8_t value = bytes == 2 && grey.pixels[i] > 0 ? 255 : grey.pixels[i + bytes - 1];
    rgb.pixels.insert(rgb.pixels.end(), 3, value);
  }
  return rgb;
}

int orientation_of(const Reader& reader) {
#ifdef PNG_eXIf_SUPPORTED
  png_uint_32 size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(reader.png, reader.info, &size, &exif) != 0 && exif) {
    return exif_orientation({reinterpret_cast<const char*>(exif), size});
  }
#endif
  return 1;
}

}  // namespace

Decoded decode_png(std::string_view bytes, const DecodeOptions& options) {
  Reader reader{};
  reader.next = bytes.data();
  reader.left = bytes.size();
  reader.over_white = options.over_white;
  const Release release{reader};
  const auto run = [&](void (*call)(Reader&)) {
    if (guarded(reader, call)) return;
    if (std::strstr(reader.message, "ut of memory")) throw std::bad_alloc();
    throw FileError(
        fmt::format("{}: {} PNG: {}", options.name, reader.truncated ? "truncated" : "malformed", reader.message));
  };
  run(read_header);
  if (!reader.info) throw std::bad_alloc();
  const std::uint64_t width = png_get_image_width(reader.png, reader.info);
  const std::uint64_t height = png_get_image_height(reader.png, reader.info);
  const int type = png_get_color_type(reader.png, reader.info), depth = png_get_bit_depth(reader.png, reader.info);
  check_pixels(width, height, options);
  // Deflate makes at most 1,032 bytes of one.
  const std::uint64_t bits =
      width * height * static_cast<std::uint64_t>(depth) * png_get_channels(reader.png, reader.info);
  if (bits / 8 / 1032 > bytes.size()) {
    throw FileError(
        fmt::format("{}: truncated PNG: {} bytes for {} x {} pixels", options.name, bytes.size(), width, height));
  }
  run(choose_rows);
  const auto columns = static_cast<std::size_t>(width);
  reader.height = static_cast<std::size_t>(height);
  // The true number of channels, or the two bytes of a sample of 16 bits.
  Image image{static_cast<int>(width), static_cast<int>(height), static_cast<int>(reader.row_bytes / columns),
              std::vector<std::uint8_t>(reader.row_bytes * reader.height)};
  reader.rows = image.pixels.data();
  run(read_rows);
  const int orientation = orientation_of(reader);
  if (options.over_white) image = composite_over_white(image, Image::Alpha::straight);
  else if (type == PNG_COLOR_TYPE_PALETTE) image = rgb_of_palette(reader, image);
  else if (!(type & PNG_COLOR_MASK_COLOR))
    image = rgb_of_grey(image, type == PNG_COLOR_TYPE_GRAY && depth == 16 ? 2 : 1);
  return {std::move(image), orientation};
}

}  // namespace tapecache::data::images
