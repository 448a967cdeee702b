// Before libjpeg's header, which needs it.
#include <cstdio>

#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <new>

#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/data/images/decoders.h"

namespace tapecache::data::images {

namespace {

/// libjpeg's state and what its callbacks need: plain data alone, so that a jump passes over nothing with a destructor.
struct Reader {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  jpeg_source_mgr source;
  jpeg_progress_mgr progress;
  std::jmp_buf back;
  bool truncated;
  char message[JMSG_LENGTH_MAX];
  std::uint8_t* pixels;  // rows are put here
  std::size_t row_bytes;
};

constexpr int kMostScans = 1000;  // each goes over the whole picture

Reader& reader_of(void* info) { return *static_cast<Reader*>(static_cast<jpeg_common_struct*>(info)->client_data); }

[[noreturn]] void give_up(Reader& reader) {
  if (reader.message[0] == '\0') {
    reader.errors.format_message(reinterpret_cast<j_common_ptr>(&reader.info), reader.message);
  }
  std::longjmp(reader.back, 1);
}

[[noreturn]] void give_up(Reader& reader, const char* message) {
  std::snprintf(reader.message, sizeof reader.message, "%s", message);
  give_up(reader);
}

[[noreturn]] void on_error(j_common_ptr info) { give_up(reader_of(info)); }

/// Warnings are of data that libjpeg makes something up for, but for these.
void on_message(j_common_ptr info, int level) {
  constexpr int kHarmless[] = {JWRN_EXTRANEOUS_DATA, JWRN_ADOBE_XFORM, JWRN_JFIF_MAJOR};
  if (level < 0 && std::find(std::begin(kHarmless), std::end(kHarmless), info->err->msg_code) == std::end(kHarmless)) {
    give_up(reader_of(info));
  }
}

void on_progress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMostScans) {
    give_up(reader_of(info), "it has more than 1000 scans");
  }
}

boolean on_end(j_decompress_ptr info) {
  reader_of(info).truncated = true;
  give_up(reader_of(info), "the file ends before the picture does");
}

void skip(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  const auto bytes = static_cast<std::size_t>(count);
  if (bytes > info->src->bytes_in_buffer) on_end(info);
  info->src->next_input_byte += bytes;
  info->src->bytes_in_buffer -= bytes;
}

/// Calls libjpeg; false where it gave up, from within, by a jump to here.
bool guarded(Reader& reader, void (*call)(Reader&)) noexcept {
  if (setjmp(reader.back) != 0) return false;
  call(reader);
  return true;
}

void read_header(Reader& reader) {
  jpeg_create_decompress(&reader.info);
  reader.info.client_data = &reader;
  reader.info.src = &reader.source;
  reader.info.progress = &reader.progress;
  jpeg_save_markers(&reader.info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&reader.info, TRUE);
}

void read_rows(Reader& reader) {
  jpeg_start_decompress(&reader.info);
  while (reader.info.output_scanline < reader.info.output_height) {
    JSAMPROW row = reader.pixels + reader.info.output_scanline * reader.row_bytes;
    jpeg_read_scanlines(&reader.info, &row, 1);
  }
  jpeg_finish_decompress(&reader.info);
}

/// Frees what libjpeg has allocated.
struct Release {
  Reader& reader;
  ~Release() { jpeg_destroy_decompress(&reader.info); }
};

int orientation_of(const Reader& reader) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  for (const jpeg_marker_struct* marker = reader.info.marker_list; marker; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (data.starts_with(kExif)) return exif_orientation(data.substr(kExif.size()));
  }
  return 1;
}

/// Of CMYK as Adobe writes it into JPEG, with 255 for no ink.
Image rgb_of_cmyk(const Image& cmyk) {
  Image rgb{cmyk.width, cmyk.height, 3, std::vector<std::uint8_t>(cmyk.pixels.size() / 4 * 3)};
  std::uint8_t* target = rgb.pixels.data();
  for (std::size_t i = 0; i < cmyk.pixels.size(); i += 4) {
    const int light = cmyk.pixels[i + 3];
    for (std::size_t c = 0; c < 3; ++c) {
      const int scaled = (255 - cmyk.pixels[i + c]) * light + 128;
      *target++ = static_cast<std::uint8_t>(light - ((scaled + (scaled >> 8)) >> 8));
    }
  }
  return rgb;
}

Image rgb_of_grey(const Image& grey) {
  Image rgb{grey.width, grey.height, 3, {}};
  rgb.pixels.reserve(grey.pixels.size() * 3);
  for (const std::uint8_t value : grey.pixels) rgb.pixels.insert(rgb.pixels.end(), 3, value);
  return rgb;
}

}  // namespace

Decoded decode_jpeg(std::string_view bytes, const DecodeOptions& options) {
  Reader reader{};
  reader.info.err = jpeg_std_error(&reader.errors);
  reader.info.client_data = &reader;  // for errors before jpeg_create_decompress has kept it
  reader.errors.error_exit = on_error;
  reader.errors.emit_message = on_message;
  reader.progress.progress_monitor = on_progress;
  reader.source.next_input_byte = reinterpret_cast<const JOCTET*>(bytes.data());
  reader.source.bytes_in_buffer = bytes.size();
  reader.source.init_source = [](j_decompress_ptr) {};
  reader.source.fill_input_buffer = on_end;
  reader.source.skip_input_data = skip;
  reader.source.resync_to_restart = jpeg_resync_to_restart;
  reader.source.term_source = [](j_decompress_ptr) {};
  const Release release{reader};
  const auto run = [&](void (*call)(Reader&)) {
    if (guarded(reader, call)) return;
    if (reader.errors.msg_code == JERR_OUT_OF_MEMORY && !reader.truncated) throw std::bad_alloc();
    throw FileError(
        fmt::format("{}: {} JPEG: {}", options.name, reader.truncated ? "truncated" : "malformed", reader.message));
  };
  run(read_header);
  const int channels = reader.info.num_components;
  const std::uint64_t width = reader.info.image_width, height = reader.info.image_height;
  check_pixels(width, height, options);
  if (channels != 1 && channels != 3 && channels != 4) {
    throw FileError(fmt::format("{}: a JPEG of {} channels, expected 1 (grey), 3 or 4 (CMYK)", options.name, channels));
  }
  // A block of 64 pixels takes a bit at least, unless coding is arithmetic.
  if (!reader.info.arith_code && width * height / 512 > bytes.size()) {
    throw FileError(
        fmt::format("{}: truncated JPEG: {} bytes for {} x {} pixels", options.name, bytes.size(), width, height));
  }
  const int orientation = orientation_of(reader);  // which libjpeg forgets at the end
  reader.info.out_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  reader.row_bytes = static_cast<std::size_t>(width) * static_cast<std::size_t>(channels);
  Image image{static_cast<int>(width), static_cast<int>(height), channels,
              std::vector<std::uint8_t>(reader.row_bytes * static_cast<std::size_t>(height))};
  reader.pixels = image.pixels.data();
  run(read_rows);
  if (channels == 1) image = rgb_of_grey(image);
  if (channels == 4) image = rgb_of_cmyk(image);
  return {std::move(image), orientation};
}

}  // namespace tapecache::data::images
