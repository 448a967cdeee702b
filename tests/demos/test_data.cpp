#include <boost/test/unit_test.hpp>

#include <png.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "folder.h"
#include "tapecache/core/error.h"
#include "tapecache/data/image.h"
#include "tapecache/data/png.h"
#include "tapecache/data/word_tokenizer.h"

using tapecache::data::Image;
using tapecache::data::WordTokenizer;
using tapecache::testing::Folder;

namespace {

Image noise(int width, int height, int channels) {
  Image image{width, height, channels, {}};
  std::uint32_t state = 7;
  for (int i = 0; i < width * height * channels; ++i) {
    state = state * 1664525u + 1013904223u;
    image.pixels.push_back(static_cast<std::uint8_t>(state >> 24));
  }
  return image;
}

double mean(const Image& image) {
  return std::accumulate(image.pixels.begin(), image.pixels.end(), 0.0) / static_cast<double>(image.pixels.size());
}

std::vector<std::uint8_t> read_png(const std::filesystem::path& path, png_uint_32 format) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  BOOST_REQUIRE(png_image_begin_read_from_file(&png, path.c_str()) != 0);
  png.format = format;
  std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(png));
  BOOST_REQUIRE(png_image_finish_read(&png, nullptr, pixels.data(), 0, nullptr) != 0);
  return pixels;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(data)

BOOST_AUTO_TEST_CASE(tokenizer_orders_words_by_count_then_alphabet) {
  const std::vector<std::string> texts{"Zebra apple, zebra", "apple-pie zebra", "pie once"};
  const WordTokenizer tokenizer = WordTokenizer::build(texts, 2);
  const std::vector<std::string> expected{"zebra", "apple", "pie"};
  BOOST_TEST(tokenizer.words() == expected, boost::test_tools::per_element());
  BOOST_TEST(tokenizer.vocabulary_size() == 3 + 256 + 3);
}

BOOST_AUTO_TEST_CASE(tokenizer_encodes_words_and_spells_the_unknown) {
  const WordTokenizer tokenizer({"man", "running"});
  const std::vector<std::int32_t> known{1, 259, 260, 2};
  BOOST_TEST(tokenizer.encode("MAN: running!", 8) == known, boost::test_tools::per_element());
  const std::vector<std::int32_t> spelled{1, 259, 3 + 'h', 3 + 'i', 3 + 0xC3, 3 + 0xA9, 2};
  BOOST_TEST(tokenizer.encode("man hi\xC3\xA9", 16) == spelled, boost::test_tools::per_element());
  const std::vector<std::int32_t> empty{1, 2};
  BOOST_TEST(tokenizer.encode(" ,.", 16) == empty, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(tokenizer_truncation_keeps_the_end) {
  const WordTokenizer tokenizer({"a", "b"});
  const std::vector<std::int32_t> full{1, 259, 260, 259, 2};
  BOOST_TEST(tokenizer.encode("a b a", 5) == full, boost::test_tools::per_element());
  const std::vector<std::int32_t> cut{1, 259, 260, 2};
  BOOST_TEST(tokenizer.encode("a b a", 4) == cut, boost::test_tools::per_element());
  const std::vector<std::int32_t> spelled{1, 3 + 'w', 3 + 'o', 2};
  BOOST_TEST(tokenizer.encode("word", 4) == spelled, boost::test_tools::per_element());
  const std::vector<std::int32_t> nothing{1, 2};
  BOOST_TEST(tokenizer.encode("a b a", 2) == nothing, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(tokenizer_vocabulary_survives_its_words) {
  const std::vector<std::string> texts{"red green blue red"};
  const WordTokenizer built = WordTokenizer::build(texts, 1);
  const WordTokenizer again(built.words());
  BOOST_TEST(built.encode("blue red mauve", 20) == again.encode("blue red mauve", 20),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(tokenizer_rejects_bad_arguments) {
  const std::vector<std::string> texts{"a"};
  BOOST_CHECK_THROW(WordTokenizer::build(texts, 0), tapecache::ValueError);
  BOOST_CHECK_THROW(WordTokenizer({"a", "a"}), tapecache::ValueError);
  BOOST_CHECK_THROW(WordTokenizer({""}), tapecache::ValueError);
  BOOST_CHECK_THROW(WordTokenizer({"a"}).encode("a", 1), tapecache::ValueError);
}

BOOST_AUTO_TEST_CASE(tokenizer_rejects_words_that_no_text_has) {
  for (const std::string word : {"Hello", "two words", "end.", "under_score", "-", "tab\t"}) {
    BOOST_CHECK_EXCEPTION(WordTokenizer({"fine", word}), tapecache::ValueError, [&](const tapecache::ValueError& e) {
      const std::string message = e.what();
      return message.find("word 1, '" + word + "'") != std::string::npos;
    });
  }
  BOOST_CHECK_NO_THROW(WordTokenizer({"x2", "2", "caf\xC3\xA9", "\xC3\x89"}));
}

BOOST_AUTO_TEST_CASE(resize_keeps_a_constant_image_constant) {
  const Image grey{136, 128, 3, std::vector<std::uint8_t>(136 * 128 * 3, 77)};
  for (const int size : {1, 7, 32, 64, 200}) {
    const Image small = tapecache::data::resize_area(grey, size, size + 1);
    BOOST_TEST(small.width == size);
    BOOST_TEST(small.height == size + 1);
    BOOST_TEST(small.pixels == std::vector<std::uint8_t>(static_cast<std::size_t>(size * (size + 1) * 3), 77));
  }
}

BOOST_AUTO_TEST_CASE(resize_keeps_the_mean) {
  const Image image = noise(136, 128, 3);
  for (const auto& [width, height] : {std::pair{32, 32}, {48, 31}, {17, 64}}) {
    BOOST_TEST(std::abs(mean(tapecache::data::resize_area(image, width, height)) - mean(image)) < 0.1);
  }
}

BOOST_AUTO_TEST_CASE(resize_averages_the_covered_area) {
  const Image image{3, 2, 1, {0, 30, 60, 90, 120, 150}};
  // Each result covers one and a half columns: (0 + 30/2) / 1.5 and (30/2 + 60) / 1.5.
  const std::vector<std::uint8_t> columns{10, 50, 100, 140};
  BOOST_TEST(tapecache::data::resize_area(image, 2, 2).pixels == columns, boost::test_tools::per_element());
  BOOST_TEST(tapecache::data::resize_area(image, 3, 2).pixels == image.pixels, boost::test_tools::per_element());
  const std::vector<std::uint8_t> doubled{1, 1, 9, 9};
  BOOST_TEST(tapecache::data::resize_area({2, 1, 1, {1, 9}}, 4, 1).pixels == doubled, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(resize_keeps_channels_apart) {
  const Image image{2, 2, 3, {255, 0, 8, 255, 0, 8, 255, 0, 8, 255, 0, 8}};
  const std::vector<std::uint8_t> expected{255, 0, 8};
  BOOST_TEST(tapecache::data::resize_area(image, 1, 1).pixels == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(composite_over_white_of_both_kinds_of_alpha) {
  const std::vector<std::uint8_t> expected{255, 127, 127, 255, 255, 255, 1, 2, 3};
  const Image straight{3, 1, 4, {255, 0, 0, 128, 9, 9, 9, 0, 1, 2, 3, 255}};
  BOOST_TEST(tapecache::data::composite_over_white(straight, Image::Alpha::straight).pixels == expected,
             boost::test_tools::per_element());
  const Image premultiplied{3, 1, 4, {128, 0, 0, 128, 0, 0, 0, 0, 1, 2, 3, 255}};
  BOOST_TEST(tapecache::data::composite_over_white(premultiplied, Image::Alpha::premultiplied).pixels == expected,
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(pad_to_square_centres) {
  const std::vector<std::uint8_t> wide{9, 9, 9, 1, 2, 3, 9, 9, 9};
  BOOST_TEST(tapecache::data::pad_to_square({3, 1, 1, {1, 2, 3}}, 9).pixels == wide, boost::test_tools::per_element());
  const std::vector<std::uint8_t> tall{9, 1, 9, 9, 2, 9, 9, 3, 9};
  BOOST_TEST(tapecache::data::pad_to_square({1, 3, 1, {1, 2, 3}}, 9).pixels == tall, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(malformed_images_are_rejected) {
  const Image short_buffer{4, 4, 3, std::vector<std::uint8_t>(47)};
  BOOST_CHECK_THROW(tapecache::data::resize_area(short_buffer, 2, 2), tapecache::ValueError);
  BOOST_CHECK_THROW(tapecache::data::pad_to_square(short_buffer, 0), tapecache::ValueError);
  BOOST_CHECK_THROW(tapecache::data::write_png("unused.png", short_buffer), tapecache::ValueError);
  BOOST_CHECK_THROW(tapecache::data::resize_area({0, 0, 3, {}}, 2, 2), tapecache::ValueError);
  BOOST_CHECK_THROW(tapecache::data::resize_area(noise(4, 4, 3), 0, 2), tapecache::ValueError);
  BOOST_CHECK_THROW(tapecache::data::composite_over_white(noise(4, 4, 3), Image::Alpha::straight),
                    tapecache::ValueError);
}

BOOST_AUTO_TEST_CASE(png_holds_the_pixels_written) {
  const Folder folder;
  const png_uint_32 formats[] = {PNG_FORMAT_GRAY, PNG_FORMAT_GA, PNG_FORMAT_RGB, PNG_FORMAT_RGBA};
  for (int channels = 1; channels <= 4; ++channels) {
    const Image image = noise(13, 9, channels);
    tapecache::data::write_png(folder / "noise.png", image);
    BOOST_TEST(read_png(folder / "noise.png", formats[channels - 1]) == image.pixels, boost::test_tools::per_element());
  }
  BOOST_TEST(folder.entries() == 1);
}

BOOST_AUTO_TEST_CASE(png_that_cannot_be_written_leaves_nothing_behind) {
  const Folder folder;
  std::filesystem::create_directory(folder / "taken.png");
  const std::filesystem::path below = folder / "file" / "noise.png";
  tapecache::data::write_png(folder / "file", noise(4, 4, 3));
  for (const std::filesystem::path& path : {folder / "taken.png", below}) {
    BOOST_CHECK_EXCEPTION(tapecache::data::write_png(path, noise(4, 4, 3)), tapecache::FileError,
                          [&](const tapecache::FileError& error) {
                            return std::string(error.what()).find(path.string()) != std::string::npos;
                          });
  }
  BOOST_TEST(folder.entries() == 2);
}

BOOST_AUTO_TEST_CASE(png_over_a_private_file_through_a_link) {
  const Folder folder;
  tapecache::data::write_png(folder / "private.png", noise(4, 4, 3));
  std::filesystem::permissions(folder / "private.png", std::filesystem::perms::owner_read);
  std::filesystem::create_symlink("private.png", folder / "link.png");
  const Image image = noise(5, 4, 3);
  tapecache::data::write_png(folder / "link.png", image);
  BOOST_TEST(std::filesystem::is_symlink(folder / "link.png"));
  BOOST_TEST(read_png(folder / "private.png", PNG_FORMAT_RGB) == image.pixels, boost::test_tools::per_element());
  BOOST_TEST((std::filesystem::status(folder / "private.png").permissions() == std::filesystem::perms::owner_read));
  BOOST_TEST(folder.entries() == 2);
}

BOOST_AUTO_TEST_SUITE_END()
