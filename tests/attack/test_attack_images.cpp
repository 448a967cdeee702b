#include <boost/test/unit_test.hpp>

#ifdef TAPECACHE_HAS_IMAGES
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "attack.h"
#include "tapecache/data/images/image_processor.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

const std::filesystem::path kImages = std::filesystem::path(TAPECACHE_REFERENCE) / "images";

}  // namespace

/// Pictures and what they are made into: whole, or not there. The decoders are C, and call back into the library.
BOOST_AUTO_TEST_SUITE(attack_images)

BOOST_AUTO_TEST_CASE(processors_that_are_loaded) {
  for (const char* name : {"clip", "siglip", "open_clip_longest"}) {
    const Work load{std::string("ImageProcessor::load of ") + name,
                    {},
                    [] {},
                    [&] {
                      const auto processor = data::ImageProcessor::load(kImages / "processors" / name);
                      return static_cast<double>(processor.width() + processor.height());
                    }};
    BOOST_TEST(attack(load, Memory::kObjects, 3) > 10);
  }
}

BOOST_AUTO_TEST_CASE(pictures_that_are_read_and_made_small) {
  const auto processor = data::ImageProcessor::load(kImages / "processors" / "clip");
  for (const char* name : {"420.jpg", "cmyk.jpg", "progressive.jpg", "oriented6.jpg", "grey_progressive.jpg",
                           "rgb8.png", "rgba16.png", "palette_alpha.png", "interlaced_rgb.png", "grey16.png"}) {
    const Work process{std::string("ImageProcessor::process of ") + name,
                       {},
                       [] {},
                       [&] { return sum_of(processor.process(kImages / "files" / name)); }};
    BOOST_TEST(attack(process, Memory::kObjects) > 3);
    BOOST_TEST(attack(process, Memory::kTensors) > 0);
  }
}

BOOST_AUTO_TEST_CASE(batches_of_pictures) {
  const auto processor = data::ImageProcessor::load(kImages / "processors" / "clip");
  const std::vector<std::filesystem::path> files{kImages / "files" / "420.jpg", kImages / "files" / "rgb8.png",
                                                 kImages / "files" / "rgb.jpg"};
  const Work process{
      "ImageProcessor::process_batch", {}, [] {}, [&] { return sum_of(processor.process_batch(files)); }};
  BOOST_TEST(attack(process, Memory::kObjects, 3) > 5);
  BOOST_TEST(attack(process, Memory::kTensors) > 0);
}

BOOST_AUTO_TEST_SUITE_END()
#endif
