// Resizing against Pillow, and what must hold of it.
#include <fstream>
#include <sstream>
#include <string>

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>
#include <nlohmann/json.hpp>

#include "checks.h"
#include "image_cases.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/data/resize.h"

using namespace tapecache;
using namespace tapecache::data;
using namespace tapecache::testing;

namespace {

/// By Pillow's numbers.
constexpr Image::Resampling kFilters[] = {Image::Resampling::kNearest,  Image::Resampling::kLanczos,
                                          Image::Resampling::kBilinear, Image::Resampling::kBicubic,
                                          Image::Resampling::kBox,      Image::Resampling::kHamming};

}  // namespace

BOOST_AUTO_TEST_SUITE(resize_images)

BOOST_AUTO_TEST_CASE(is_pillows_to_the_bit) {
  const SafetensorsFile file = read_safetensors(kImages / "resized.safetensors");
  int cases = 0;
  for (const auto& [name, expected] : file.tensors) {
    std::istringstream words(name);
    std::string source;
    std::size_t filter = 0;
    int width = 0, height = 0;
    if (!(words >> source >> width >> height >> filter)) continue;
    const Image found = resize(image_of(file.tensors.at(source)), width, height, kFilters[filter]);
    BOOST_TEST(same_pixels(found, image_of(expected)), name);
    ++cases;
  }
  BOOST_TEST(cases > 200);
}

BOOST_AUTO_TEST_CASE(large_pictures_are_pillows_to_the_bit) {
  Image large{500, 375, 3, {}};
  for (int y = 0; y < large.height; ++y) {
    for (int x = 0; x < large.width; ++x) {
      for (int c = 0; c < 3; ++c) large.pixels.push_back(static_cast<std::uint8_t>(x * (3 + c) + y * y + x * y / 7));
    }
  }
  std::ifstream in(kImages / "resized_large.json");
  const nlohmann::json digests = nlohmann::json::parse(in);
  BOOST_TEST(digests.size() == 30u);
  for (const auto& [name, expected] : digests.items()) {
    std::istringstream words(name);
    std::size_t filter = 0;
    int width = 0, height = 0;
    words >> width >> height >> filter;
    std::uint64_t digest = 0xCBF29CE484222325;
    for (const std::uint8_t sample : resize(large, width, height, kFilters[filter]).pixels) {
      digest = (digest ^ sample) * 0x100000001B3;
    }
    BOOST_TEST(fmt::format("{:016x}", digest) == expected.get<std::string>(), name);
  }
}

BOOST_AUTO_TEST_CASE(a_region_is_cut_from_the_whole) {
  const Image image = noise(23, 17);
  for (const Image::Resampling filter : kFilters) {
    for (const auto& [width, height] :
         {std::pair(11, 8), std::pair(40, 33), std::pair(23, 30), std::pair(9, 17), std::pair(23, 17)}) {
      const Image whole = resize(image, width, height, filter);
      const images::Region region{3, 2, width - 5, height - 3};
      const Image part = images::resize_region(image, width, height, filter, region);
      Image cut{region.width, region.height, 3, {}};
      for (int y = 0; y < region.height; ++y) {
        const auto row = whole.pixels.begin() + ((region.y + y) * width + region.x) * 3;
        cut.pixels.insert(cut.pixels.end(), row, row + region.width * 3);
      }
      BOOST_TEST(same_pixels(part, cut), static_cast<int>(filter) << ": " << width << " x " << height);
    }
  }
}

BOOST_AUTO_TEST_CASE(channels_go_by_themselves) {
  const Image four = noise(9, 14, 4);
  for (const Image::Resampling filter : kFilters) {
    const Image resized = resize(four, 13, 5, filter);
    for (std::size_t c = 0; c < 4; ++c) {
      Image one{9, 14, 1, {}}, expected{13, 5, 1, {}};
      for (std::size_t i = c; i < four.pixels.size(); i += 4) one.pixels.push_back(four.pixels[i]);
      for (std::size_t i = c; i < resized.pixels.size(); i += 4) expected.pixels.push_back(resized.pixels[i]);
      BOOST_TEST(same_pixels(resize(one, 13, 5, filter), expected));
    }
  }
}

BOOST_AUTO_TEST_CASE(refuses_sizes_that_are_none) {
  const Image image = noise(3, 3);
  BOOST_CHECK_EXCEPTION(resize(image, 0, 3, Image::Resampling::kBox), ValueError, says({"resize", "0 x 3"}));
  BOOST_CHECK_EXCEPTION(resize(image, 3, -1, Image::Resampling::kBox), ValueError, says({"resize", "3 x -1"}));
  BOOST_CHECK_EXCEPTION(resize({3, 3, 3, {}}, 2, 2, Image::Resampling::kBox), ValueError, says({"resize", "0 bytes"}));
}

BOOST_AUTO_TEST_SUITE_END()
