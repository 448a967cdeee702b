#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <zlib.h>

#include "../../demos/vit_fashion_mnist/confusion.h"
#include "../../demos/vit_fashion_mnist/idx_file.h"
#include "folder.h"
#include "tapecache/core/error.h"

using namespace vit_fashion_mnist;
using tapecache::FileError;
using tapecache::testing::contents;
using tapecache::testing::Folder;
using tapecache::testing::put;

namespace {

void put_gzip(const std::filesystem::path& path, std::string_view bytes) {
  const gzFile file = ::gzopen(path.c_str(), "wb");
  BOOST_REQUIRE(file);
  BOOST_REQUIRE_EQUAL(::gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())),
                      static_cast<int>(bytes.size()));
  BOOST_REQUIRE_EQUAL(::gzclose(file), Z_OK);
}

/// Two pictures of 2 x 2 pixels.
const std::string kImages(
    "\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x02"
    "\x01\x02\x03\x04\x05\x06\x07\xff",
    24);
const std::string kLabels("\0\0\x08\x01\0\0\0\x02\x09\x00", 10);

/// Whether reading the file throws a FileError that names it and says `what`.
void refuses(const std::filesystem::path& path, int axes, const char* what) {
  BOOST_CHECK_EXCEPTION(read_idx(path, axes), FileError, [&](const FileError& e) {
    const std::string_view message = e.what();
    const bool named = message.find(path.string()) != message.npos && message.find(what) != message.npos;
    if (!named) BOOST_TEST_MESSAGE(message);
    return named;
  });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(vit_fashion_mnist_demo)

BOOST_AUTO_TEST_CASE(an_idx_file_is_read_compressed_or_not) {
  const Folder folder;
  put_gzip(folder / "compressed", kImages);
  put(folder / "plain", kImages);
  for (const char* name : {"compressed", "plain"}) {
    const IdxBytes read = read_idx(folder / name, 3);
    BOOST_TEST(read.sizes == (std::vector<std::int64_t>{2, 2, 2}), boost::test_tools::per_element());
    BOOST_TEST(read.bytes == (std::vector<std::uint8_t>{1, 2, 3, 4, 5, 6, 7, 255}), boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(what_is_no_whole_idx_file_is_refused) {
  const Folder folder;
  const auto path = folder / "file";
  refuses(path, 3, "cannot be opened");
  put(path, "");
  refuses(path, 3, "ends in its header");
  put_gzip(path, kImages.substr(0, 10));
  refuses(path, 3, "ends in its header");
  put_gzip(path, kImages);
  refuses(path, 1, "begins with 0x00000803, expected 0x00000801");
  put_gzip(path, kImages.substr(0, 23));
  refuses(path, 3, "has only 7 bytes, its header says 8 (2 x 2 x 2)");
  put_gzip(path, kImages + "x");
  refuses(path, 3, "has more than 8 bytes");
  std::string lying = kImages;
  for (std::size_t i = 4; i < 16; ++i) lying[i] = '\xff';
  put_gzip(path, lying);
  refuses(path, 3, "too large");
  put_gzip(path, kImages);
  const std::string whole = contents(path);
  put(path, std::string_view(whole).substr(0, whole.size() - 12));
  refuses(path, 3, "cannot be decompressed: it is cut off");
  std::string damaged = whole;
  damaged[12] = static_cast<char>(damaged[12] ^ 0x55);
  put(path, damaged);
  refuses(path, 3, "");
}

BOOST_AUTO_TEST_CASE(pictures_and_labels_must_belong_together) {
  const Folder folder;
  const auto images = folder / "x-images-idx3-ubyte.gz", labels = folder / "x-labels-idx1-ubyte.gz";
  put_gzip(images, kImages);
  put_gzip(labels, kLabels);
  const LabelledImages read = read_labelled_images(folder.path(), "x", 10);
  BOOST_TEST(read.count == 2);
  BOOST_TEST(read.side == 2);
  BOOST_TEST(read.classes == (std::vector<std::uint8_t>{9, 0}), boost::test_tools::per_element());
  BOOST_CHECK_THROW(read_labelled_images(folder.path(), "x", 9), FileError);
  put_gzip(labels, std::string("\0\0\x08\x01\0\0\0\x01\x09", 9));
  BOOST_CHECK_THROW(read_labelled_images(folder.path(), "x", 10), FileError);
}

BOOST_AUTO_TEST_CASE(the_confusion_matrix_counts_and_shows_each_cell) {
  Confusion confusion;
  BOOST_TEST(confusion.accuracy() == 0);
  for (int i = 0; i < 3; ++i) confusion.add(0, 0);
  confusion.add(0, 6);
  BOOST_TEST(confusion.accuracy() == 0.75);
  const std::string svg = confusion_svg(confusion);
  for (const char* shown : {"3 of 4 test pictures right (75.00 %)", ">3</text>", ">1</text>", "75.0 %", "T-shirt"}) {
    BOOST_TEST((svg.find(shown) != std::string::npos), shown);
  }
}

BOOST_AUTO_TEST_SUITE_END()
