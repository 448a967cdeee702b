// What models of folders make of images.

#include "checks.h"
#include "pretrained_parts.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(pretrained)

BOOST_AUTO_TEST_CASE(classes_of_images) {
  const Pretrained classes = load_pretrained(case_folder("vit_classes"));
  BOOST_TEST(classes.classifies_images());
  BOOST_TEST(classes.info().labels.size() == 5u);
  BOOST_TEST(classes.info().labels.at(3) == "LABEL_3");
  BOOST_TEST(classes.info().width == 16);
  const Variable images(random_values({2, 3, 8, 8}, 7, DType::kFloat32));
  const NoRecording off;
  BOOST_TEST(classes.encode_images(images).size(1) == 16);
  BOOST_TEST(classes.classify_images(images).size(1) == 5);
  const Pretrained vit = load_pretrained(case_folder("vit"));
  BOOST_TEST(!vit.classifies_images());
  BOOST_TEST(vit.info().labels.empty());
  BOOST_TEST(vit.info().width == 12);
  BOOST_CHECK_EXCEPTION(vit.classify_images(images), ValueError, says({"vit", "classifies no images"}));
}

BOOST_AUTO_TEST_CASE(images_of_other_sizes) {
  const auto images = [](std::int64_t height, std::int64_t width) {
    return Variable(random_values({2, 3, height, width}, 7, DType::kFloat32));
  };
  const NoRecording off;
  BOOST_CHECK_EXCEPTION(load_pretrained(case_folder("vit")).encode_images(images(12, 8)), ShapeError,
                        says({"[2, 3, 12, 8]", "expected [batch, 3, 8, 8]"}));
  BOOST_CHECK_EXCEPTION(load_pretrained(case_folder("siglip_vision")).encode_images(images(8, 8)), ShapeError,
                        says({"[2, 3, 8, 8]", "expected [batch, channels, 10, 10]"}));
  const Pretrained dinov2 = load_pretrained(case_folder("dinov2"));
  BOOST_TEST(dinov2.encode_images(images(4, 40)).size(1) == 16);
  BOOST_CHECK_EXCEPTION(dinov2.encode_images(images(12, 10)), ShapeError, says({"not divided into patches of 4"}));
  BOOST_CHECK_EXCEPTION(dinov2.encode_images(images(0, 8)), ShapeError, says({"at least one patch of 4"}));
  BOOST_CHECK_EXCEPTION(dinov2.encode_images(Tensor::zeros({2, 1, 12, 12})), ShapeError, says({"[batch, 3, height"}));
}

BOOST_AUTO_TEST_SUITE_END()
