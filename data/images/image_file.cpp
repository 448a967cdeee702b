#include <fmt/format.h>

#include "tapecache/core/error.h"
#include "tapecache/core/json.h"
#include "tapecache/data/images/decoders.h"
#include "tapecache/data/images/image_processor.h"

namespace tapecache::data {

namespace {

using namespace std::string_view_literals;

struct Kind {
  std::string_view begins, name;
};
constexpr Kind kOthers[] = {{"GIF8"sv, "GIF"},         {"BM"sv, "BMP"},
                            {"II*\0"sv, "TIFF"},       {"MM\0*"sv, "TIFF"},
                            {"RIFF"sv, "RIFF (WebP)"}, {"\0\0\0\x0cJXL"sv, "JPEG XL"},
                            {"<svg"sv, "SVG"},         {"\0\0\0\x0cjP"sv, "JPEG 2000"},
                            {"%PDF"sv, "PDF"},         {"version https://git-lfs"sv, "a pointer of Git LFS"}};

std::string beginning(std::string_view bytes) {
  for (const Kind& kind : kOthers) {
    if (bytes.starts_with(kind.begins)) return std::string(kind.name);
  }
  if (bytes.substr(0, 12).find("ftyp") == 4) return "HEIF or AVIF";
  std::string hex;
  for (const char byte : bytes.substr(0, 4)) hex += fmt::format(" {:02x}", static_cast<unsigned char>(byte));
  return "bytes that begin with" + hex;
}

}  // namespace

namespace images {

void check_pixels(std::uint64_t width, std::uint64_t height, const DecodeOptions& options) {
  if (width == 0 || height == 0) {
    throw FileError(fmt::format("{}: a picture of {} x {} pixels", options.name, width, height));
  }
  if (width * height > static_cast<std::uint64_t>(options.max_pixels)) {
    throw FileError(fmt::format("{}: a picture of {} x {} pixels, expected at most {}", options.name, width, height,
                                options.max_pixels));
  }
}

}  // namespace images

Image decode_image(std::string_view bytes, const std::string& name, const ImageReadOptions& options) {
  if (options.max_pixels < 1) {
    throw ValueError(fmt::format("decode_image: max_pixels is {}, expected at least 1", options.max_pixels));
  }
  if (bytes.empty()) throw FileError(fmt::format("{}: is empty, expected a JPEG or a PNG", name));
  const images::DecodeOptions decode{name, options.max_pixels, options.over_white};
  images::Decoded decoded;
  if (bytes.starts_with("\xFF\xD8\xFF")) decoded = images::decode_jpeg(bytes, decode);
  else if (bytes.starts_with("\x89PNG\r\n\x1a\n")) decoded = images::decode_png(bytes, decode);
  else throw FileError(fmt::format("{}: found {}, expected a JPEG or a PNG", name, beginning(bytes)));
  return options.orient ? images::oriented(std::move(decoded.image), decoded.orientation) : std::move(decoded.image);
}

Image read_image(const std::filesystem::path& path, const ImageReadOptions& options) {
  return decode_image(tapecache::detail::read_small_file(path, std::uint64_t{1} << 30), path.string(), options);
}

}  // namespace tapecache::data
