// Pictures of every kind against Pillow, and files that are broken in every way.
#include <sys/stat.h>

#include <png.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "checks.h"
#include "folder.h"
#include "image_cases.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/data/images/image_processor.h"

using namespace tapecache;
using namespace tapecache::data;
using namespace tapecache::testing;

namespace {

/// A PNG's bytes with another width and height in its header, whose checksum fits.
std::string with_size(std::string png, std::uint32_t width, std::uint32_t height) {
  const auto put32 = [&](std::size_t at, std::uint32_t value) {
    for (std::size_t i = 0; i < 4; ++i) png[at + i] = static_cast<char>(value >> (24 - 8 * i));
  };
  put32(16, width);
  put32(20, height);
  std::uint32_t crc = ~0u;
  for (std::size_t at = 12; at < 29; ++at) {
    crc ^= static_cast<unsigned char>(png[at]);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
  }
  put32(29, ~crc);
  return png;
}

/// The same of a JPEG, in its frame's header.
std::string with_jpeg_size(std::string jpeg, std::uint16_t width, std::uint16_t height) {
  const std::size_t frame = std::min(jpeg.find("\xFF\xC0"), jpeg.find("\xFF\xC2"));
  BOOST_REQUIRE(frame != std::string::npos);
  for (const auto& [at, value] : {std::pair(frame + 5, height), std::pair(frame + 7, width)}) {
    jpeg[at] = static_cast<char>(value >> 8);
    jpeg[at + 1] = static_cast<char>(value & 0xFF);
  }
  return jpeg;
}

/// Taken or refused by name, never more.
bool is_taken(const std::string& bytes) {
  try {
    const Image image = decode_image(bytes, "given", {.max_pixels = 1 << 20});
    BOOST_TEST(image.pixels.size() == static_cast<std::size_t>(image.width * image.height * 3));
    return true;
  } catch (const FileError& e) {
    BOOST_TEST(says({"given"})(e));
    return false;
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(image_files)

BOOST_AUTO_TEST_CASE(every_kind_is_pillows_to_the_bit) {
  const SafetensorsFile expected = read_safetensors(kImages / "decoded.safetensors");
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFiles)) {
    const std::string name = entry.path().filename().string();
    BOOST_TEST(same_pixels(read_image(entry.path()), image_of(expected.tensors.at(name))), name);
    ++files;
  }
  BOOST_TEST(files > 40);
}

BOOST_AUTO_TEST_CASE(orientation_is_left_alone_where_that_is_asked) {
  const SafetensorsFile expected = read_safetensors(kImages / "decoded.safetensors");
  BOOST_TEST(same_pixels(read_image(kFiles / "oriented6.jpg", {.orient = false}),
                         image_of(expected.tensors.at("oriented6.jpg as it lies"))));
}

BOOST_AUTO_TEST_CASE(transparency_over_white) {
  for (const char* name :
       {"rgba8.png", "rgba16.png", "grey_alpha8.png", "palette_alpha.png", "grey_key.png", "rgb_key.png"}) {
    const Image plain = read_image(kFiles / name), white = read_image(kFiles / name, {.over_white = true});
    BOOST_TEST_CONTEXT(name) {
      BOOST_TEST(white.pixels.size() == plain.pixels.size());
      BOOST_TEST(white.pixels != plain.pixels);
      // It only ever becomes lighter.
      BOOST_TEST(std::ranges::equal(white.pixels, plain.pixels, std::greater_equal()));
    }
  }
  for (const char* name : {"rgb8.png", "palette4.png", "grey2.png", "420.jpg", "interlaced_rgb.png"}) {
    BOOST_TEST(same_pixels(read_image(kFiles / name), read_image(kFiles / name, {.over_white = true})), name);
  }
}

BOOST_AUTO_TEST_CASE(truncated_at_any_length) {
  for (const auto& entry : std::filesystem::directory_iterator(kFiles)) {
    const std::string bytes = contents(entry.path());
    for (std::size_t length = 0; length < bytes.size(); length += 1 + length / 40) {
      BOOST_TEST(!is_taken(bytes.substr(0, length)), entry.path().string() << " cut at " << length);
    }
  }
}

BOOST_AUTO_TEST_CASE(damaged_anywhere) {
  int taken = 0, refused = 0;
  for (const char* name : {"420.jpg", "progressive.jpg", "restarts.jpg", "cmyk.jpg", "oriented6.jpg", "palette4.png",
                           "interlaced_rgb.png", "grey16.png", "oriented.png"}) {
    const std::string bytes = contents(kFiles / name);
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      for (const int change : {0x01, 0x80, 0xFF}) {
        std::string damaged = bytes;
        damaged[at] = static_cast<char>(damaged[at] ^ change);
        ++(is_taken(damaged) ? taken : refused);
      }
    }
  }
  BOOST_TEST(taken > 1000);    // within a JPEG's coefficients nothing tells
  BOOST_TEST(refused > 1000);  // a PNG has checksums
}

BOOST_AUTO_TEST_CASE(names_what_is_wrong) {
  const Folder folder;
  const auto refused = [&](const std::string& bytes, std::vector<std::string> words,
                           const ImageReadOptions& options = {}) {
    put(folder / "given.jpg", bytes);
    words.emplace_back("given.jpg");
    BOOST_CHECK_EXCEPTION(read_image(folder / "given.jpg", options), FileError, says(words));
  };
  const std::string jpeg = contents(kFiles / "420.jpg"), png = contents(kFiles / "rgb8.png");
  refused("", {"empty"});
  refused("GIF89a...", {"found GIF", "expected a JPEG or a PNG"});
  refused(std::string("RIFF\x10\0\0\0WEBPVP8 ", 16), {"WebP"});
  refused("hello", {"begin with 68 65 6c 6c"});
  refused(jpeg.substr(0, jpeg.size() / 2), {"truncated JPEG", "ends before"});
  refused(jpeg.substr(0, jpeg.size() - 2), {"truncated JPEG"});
  refused(png.substr(0, png.size() / 2), {"truncated PNG", "ends before"});
  refused(with_size(png, 0, 5), {"malformed PNG"});
  refused(with_size(png, 7, 7), {"PNG"});
  refused(with_size(png, 13000, 13000), {"truncated PNG", "13000 x 13000"});
  refused(with_size(png, 0x7FFFFFFF, 0x7FFFFFFF), {"2147483647 x 2147483647", "at most 178956970"});
  refused(with_jpeg_size(jpeg, 65000, 65000), {"65000 x 65000", "at most"});
  refused(with_jpeg_size(jpeg, 5000, 5000), {"truncated JPEG", "5000 x 5000"});
  refused(with_jpeg_size(jpeg, 45, 90), {"JPEG"});
  refused(with_jpeg_size(jpeg, 0, 31), {"malformed JPEG"});
  refused(png, {"7 x 6", "at most 41"}, {.max_pixels = 41});
  refused(jpeg, {"45 x 31", "at most 1394"}, {.max_pixels = 1394});
  read_image(kFiles / "420.jpg", {.max_pixels = 1395});
  BOOST_CHECK_EXCEPTION(read_image(folder / "none.png"), FileError, says({"none.png"}));
  BOOST_CHECK_EXCEPTION(read_image(folder.path()), FileError, says({"regular file"}));
  BOOST_REQUIRE(::mkfifo((folder / "pipe.png").c_str(), 0600) == 0);
  BOOST_CHECK_EXCEPTION(read_image(folder / "pipe.png"), FileError, says({"pipe.png", "regular file"}));
  BOOST_CHECK_EXCEPTION(decode_image(png, "a", {.max_pixels = 0}), ValueError, says({"max_pixels"}));
}

BOOST_AUTO_TEST_CASE(orientations_that_are_none_change_nothing) {
  const std::string bytes = contents(kFiles / "oriented6.jpg");
  const Image plain = read_image(kFiles / "oriented6.jpg", {.orient = false});
  const std::size_t exif = bytes.find("Exif");
  BOOST_REQUIRE(exif != std::string::npos);
  const std::size_t value = bytes.find('\6', exif + 14);
  BOOST_REQUIRE(value != std::string::npos);
  for (const char other : {'\0', '\1', '\x09', '\xFF'}) {
    std::string changed = bytes;
    changed[value] = other;
    BOOST_TEST(same_pixels(decode_image(changed, "given"), plain), static_cast<int>(other));
  }
}

BOOST_AUTO_TEST_CASE(a_jpeg_of_many_scans_is_refused) {
  // A frame of 8 x 8 pixels in grey, progressive, whose first scan is followed by others that say nothing new.
  const std::string bytes = contents(kFiles / "grey_progressive.jpg");
  std::size_t last = bytes.rfind("\xFF\xDA");
  BOOST_REQUIRE(last != std::string::npos);
  const std::string scan = bytes.substr(last, bytes.size() - 2 - last);
  std::string many = bytes.substr(0, bytes.size() - 2);
  for (int i = 0; i < 1100; ++i) many += scan;
  BOOST_TEST(!is_taken(many + "\xFF\xD9"));
}

BOOST_AUTO_TEST_SUITE_END()
