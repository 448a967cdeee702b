// What the processors of transformers and OpenCLIP make of pictures, and configurations that are refused.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "checks.h"
#include "compare.h"
#include "folder.h"
#include "image_cases.h"
#include "tapecache/core/error.h"
#include "tapecache/core/files.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/data/images/image_processor.h"

using namespace tapecache;
using namespace tapecache::data;
using namespace tapecache::testing;

namespace {

const std::filesystem::path kProcessors = kImages / "processors";
const std::vector<std::filesystem::path> kPair{kFiles / "420.jpg", kFiles / "444.jpg"};

using Augmentation = ImageProcessor::Augmentation;

}  // namespace

struct Given : Folder {
  ImageProcessor processor(const std::string& json, const char* file = "preprocessor_config.json") {
    put(*this / file, json);
    return ImageProcessor::load(*this / file);
  }
  void refused(const std::string& json, std::vector<std::string> words, const char* file = "preprocessor_config.json") {
    words.emplace_back(file);
    BOOST_TEST_CONTEXT(json) { BOOST_CHECK_EXCEPTION(processor(json, file), FileError, says(words)); }
  }
};

BOOST_FIXTURE_TEST_SUITE(image_processor, Given)

BOOST_AUTO_TEST_CASE(values_are_those_of_transformers_and_open_clip) {
  const SafetensorsFile expected = read_safetensors(kImages / "processed.safetensors");
  for (const auto& [name, values] : expected.tensors) {
    const std::size_t blank = name.find(' ');
    const ImageProcessor processor = ImageProcessor::load(kProcessors / name.substr(0, blank));
    const Tensor found = processor.process(kFiles / name.substr(blank + 1));
    BOOST_TEST_CONTEXT(name << ": " << describe(found)) {
      BOOST_REQUIRE(found.shape() == values.shape());
      double most = 0;
      for (std::int64_t i = 0; i < found.numel(); ++i) {
        most = std::max(most, std::abs(static_cast<double>(found.data<float>()[i]) - values.data<float>()[i]));
      }
      BOOST_TEST(most <= 1e-6);
    }
  }
  BOOST_TEST(expected.tensors.size() == 90u);
}

BOOST_AUTO_TEST_CASE(a_batch_is_its_images) {
  const ImageProcessor processor = ImageProcessor::load(kProcessors / "clip");
  const Tensor batch = processor.process_batch(kPair);
  BOOST_TEST((batch.shape() == Shape{2, 3, 18, 18}));
  BOOST_TEST(processor.height() == 18);
  BOOST_TEST(processor.width() == 18);
  for (std::int64_t i = 0; i < 2; ++i) {
    const Tensor one = processor.process(kPair[static_cast<std::size_t>(i)]);
    BOOST_TEST(same_bits(batch.slice(i, i + 1).reshape({3, 18, 18}), one));
    const Tensor pixels = processor.pixels(kPair[static_cast<std::size_t>(i)]);
    BOOST_TEST(same_bits(processor.normalize(pixels.reshape({1, 18, 18, 3})).reshape({3, 18, 18}), one));
  }
  BOOST_TEST(processor.process_batch({}).numel() == 0);
  std::vector<std::filesystem::path> files(20, kPair[0]);
  files[13] = kFiles / "none.png";
  BOOST_CHECK_EXCEPTION(processor.process_batch(files), FileError, says({"none.png"}));
}

BOOST_AUTO_TEST_CASE(sizes_that_differ_make_no_batch) {
  const ImageProcessor processor =
      this->processor(R"({"image_processor_type": "CLIPImageProcessor", "do_center_crop": false, "size": 12})");
  BOOST_TEST(processor.height() == 0);
  BOOST_CHECK_EXCEPTION(processor.process_batch(kPair), ShapeError, says({"420.jpg", "444.jpg", "do_center_crop"}));
  BOOST_CHECK_EXCEPTION(processor.pixels(kPair[0], Augmentation{}, 0, 0), ValueError, says({"no size of their own"}));
}

BOOST_AUTO_TEST_CASE(extreme_shapes_cost_what_their_result_costs) {
  // Whole, it would be resized to 20 x 2,000,000 pixels.
  Image thin{1, 100000, 3, std::vector<std::uint8_t>(300000, 9)};
  const ImageProcessor processor = ImageProcessor::load(kProcessors / "clip");
  BOOST_TEST((processor.process(thin).shape() == Shape{3, 18, 18}));
  const ImageProcessor whole =
      this->processor(R"({"image_processor_type": "CLIPImageProcessor", "do_center_crop": false, "size": 2000})");
  BOOST_CHECK_EXCEPTION(whole.process(thin), ValueError, says({"1 x 100000", "2000 x 200000000", "at most"}));
  BOOST_CHECK_EXCEPTION(processor.process(noise(3, 3, 4)), ValueError, says({"4 channels", "RGB"}));
}

BOOST_AUTO_TEST_CASE(names_of_processors) {
  for (const char* name : {"CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor",
                           "ViTImageProcessorFast", "SiglipImageProcessorFast", "BitImageProcessorFast"}) {
    const ImageProcessor found = processor(std::string(R"({"image_processor_type": ")") + name + "\"}");
    BOOST_TEST(found.width() == 224, name);
  }
  BOOST_TEST(processor(R"({"image_processor_type": "ViTImageProcessor", "size": 32})")
                 .description()
                 .find("32 x 32 by bilinear") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(which_file_of_a_folder_counts) {
  const auto width = [&] { return ImageProcessor::load(path()).width(); };
  const std::string vit = R"("image_processor_type": "ViTImageProcessor", "size": )";
  put(*this / "preprocessor_config.json", "{" + vit + "5}");
  BOOST_TEST(width() == 5);
  put(*this / "processor_config.json", R"({"processor_class": "CLIPProcessor"})");
  BOOST_TEST(width() == 5);
  put(*this / "processor_config.json", R"({"image_processor": {)" + vit + "6}}");
  BOOST_TEST(width() == 6);
  put(*this / "open_clip_config.json", R"({"model_cfg": {"vision_cfg": {"image_size": 7}}})");
  BOOST_TEST(width() == 7);
  put(*this / "config.json", "{}");
  BOOST_TEST(width() == 6);
}

BOOST_AUTO_TEST_CASE(what_is_not_supported_is_refused_by_its_field) {
  const auto clip = [](const std::string& fields) {
    return R"({"image_processor_type": "CLIPImageProcessor", )" + fields + "}";
  };
  refused("[]", {"expected a JSON object"});
  refused("{}", {"image_processor_type is missing", "BitImageProcessor"});
  refused(R"({"image_processor_type": "ConvNextImageProcessor"})", {"image_processor_type", "ConvNext"});
  refused(R"({"feature_extractor_type": "DetrFeatureExtractor"})", {"feature_extractor_type", "Detr"});
  for (const auto& [fields, words] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {R"("crop_pct": 0.9)", {"crop_pct is 0.9", "not supported"}},
           {R"("do_pad": true)", {"do_pad is true"}},
           {R"("size": {"shortest_edge": 5, "longest_edge": 9})", {"size.longest_edge is 9"}},
           {R"("size": {"longest_edge": 9})", {"size.longest_edge"}},
           {R"("size": {"height": 9})", {"size.width is missing"}},
           {R"("size": {"height": 0, "width": 9})", {"size.height is 0"}},
           {R"("size": [1, 2, 3])", {"size", "a height and a width"}},
           {R"("size": 2.5)", {"size is 2.5"}},
           {R"("size": 1000000)", {"size is 1000000", "16384"}},
           {R"("crop_size": {"shortest_edge": 5})", {"crop_size.shortest_edge"}},
           {R"("resample": 6)", {"resample is 6", "0 to 5"}},
           {R"("resample": "bicubic")", {"resample"}},
           {R"("do_resize": 1)", {"do_resize is 1", "true or false"}},
           {R"("rescale_factor": "1/255")", {"rescale_factor", "a number"}},
           {R"("image_mean": [0.5, 0.5])", {"image_mean", "3 numbers"}},
           {R"("image_std": [0.5, 0, 0.5])", {"image_std", "above 0"}},
           {R"("image_std": 0)", {"image_std", "above 0"}},
           {R"("image_std": 1e-60)", {"image_std is 1e-60", "3 numbers above 0 in float32"}},
           {R"("image_std": 1e-39)", {"image_std is 1e-39", "finite in float32"}},
           {R"("image_mean": [0, 1e39, 0])", {"image_mean is [0, ", "3 numbers that are finite in float32"}},
           {R"("rescale_factor": 1e37)", {"rescale_factor is 1e", "255 is finite in float32"}}}) {
    refused(clip(fields), words);
  }
  refused(R"({"image_processor": {"image_processor_type": "CLIPImageProcessor", "resample": 9}})",
          {"image_processor.resample is 9"}, "processor_config.json");
  const auto open_clip = [](const std::string& fields) {
    return R"({"model_cfg": {"vision_cfg": {"image_size": 8}}, "preprocess_cfg": {)" + fields + "}}";
  };
  for (const auto& [fields, words] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {R"("mode": "L")", {"preprocess_cfg.mode"}},
           {R"("resize_mode": "stretch")", {"preprocess_cfg.resize_mode", "squash"}},
           {R"("interpolation": "lanczos")", {"preprocess_cfg.interpolation", "bilinear"}},
           {R"("jitter": 1)", {"preprocess_cfg.jitter"}},
           {R"("resize_mode": "longest", "fill_color": 256)", {"preprocess_cfg.fill_color is 256"}}}) {
    refused(open_clip(fields), words, "open_clip_config.json");
  }
  BOOST_CHECK_EXCEPTION(ImageProcessor::load(*this / "none"), FileError, says({"none"}));
  const Folder empty;
  BOOST_CHECK_EXCEPTION(ImageProcessor::load(empty.path()), FileError, says({"holds no preprocessor_config.json"}));
}

BOOST_AUTO_TEST_CASE(fields_without_effect_are_passed_over) {
  processor(R"({"image_processor_type": "CLIPImageProcessorFast", "do_pad": null, "device": null, "pad_size": null,
                "data_format": "channels_first", "do_convert_rgb": false, "processor_class": "CLIPProcessor",
                "crop_pct": null})");
}

BOOST_AUTO_TEST_CASE(augmentation_depends_on_seed_epoch_and_sample_alone) {
  const ImageProcessor processor = ImageProcessor::load(kProcessors / "clip");
  const Augmentation augmentation{.smallest_area = 0.3, .flip = 0.5, .seed = 7};
  const auto crop = [&](std::uint32_t epoch, std::uint32_t sample) {
    return processor.pixels(kPair[0], augmentation, epoch, sample);
  };
  const Tensor first = crop(0, 0);
  BOOST_TEST((first.shape() == Shape{18, 18, 3}));
  std::vector<Tensor> others{crop(0, 1), crop(1, 0),
                             processor.pixels(kPair[0], {.smallest_area = 0.3, .flip = 0.5, .seed = 8}, 0, 0)};
  for (const Tensor& other : others) BOOST_TEST(!same_bits(first, other));
  BOOST_TEST(same_bits(first, crop(0, 0)));
}

BOOST_AUTO_TEST_CASE(without_crop_and_flip_nothing_is_augmented) {
  const ImageProcessor processor = ImageProcessor::load(kProcessors / "clip");
  BOOST_TEST(same_bits(processor.pixels(kPair[0], {.smallest_area = 1}, 0, 0), processor.pixels(kPair[0])));
}

BOOST_AUTO_TEST_CASE(a_crop_that_does_not_fit_is_the_largest_from_the_centre) {
  const ImageProcessor processor = ImageProcessor::load(kProcessors / "siglip");
  const Image image = read_image(kPair[0]);
  const Image whole = resize(image, 16, 16, Image::Resampling::kBicubic);
  const Tensor flipped = processor.pixels(kPair[0], {.smallest_area = 0.999, .widest = 1, .flip = 1}, 0, 0);
  const Tensor plain = processor.pixels(kPair[0], {.smallest_area = 0.999, .widest = 1, .flip = 0}, 0, 0);
  const Image a = image_of(flipped), b = image_of(plain);
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 16; ++x) {
      for (int c = 0; c < 3; ++c) {
        const auto at = [&](const Image& i, int column) {
          return i.pixels[static_cast<std::size_t>((y * 16 + column) * 3 + c)];
        };
        BOOST_REQUIRE(at(a, x) == at(b, 15 - x));
      }
    }
  }
  // No square of this area lies within it: the largest from the centre is taken.
  Image centre{31, 31, 3, {}};
  for (int y = 0; y < 31; ++y) {
    const auto row = image.pixels.begin() + (y * 45 + 7) * 3;
    centre.pixels.insert(centre.pixels.end(), row, row + 31 * 3);
  }
  BOOST_TEST(same_pixels(b, resize(centre, 16, 16, Image::Resampling::kBicubic)));
  BOOST_TEST(!same_pixels(b, whole));
}

BOOST_AUTO_TEST_CASE(crops_are_of_the_sizes_that_are_asked_for) {
  // Of a picture that is its own coordinates, what the crop covers can be read from its corners.
  const ImageProcessor processor =
      this->processor(R"({"image_processor_type": "ViTImageProcessor", "size": 64, "resample": 0})");
  int left = 0, flips = 0;
  double smallest = 1, largest = 0;
  for (std::uint32_t sample = 0; sample < 200; ++sample) {
    const Tensor pixels = processor.pixels(kFiles / "coordinates.png", {.smallest_area = 0.25, .flip = 0.5}, 3, sample);
    const auto* const p = pixels.data<std::uint8_t>();
    const int x0 = p[0], y0 = p[1], x1 = p[(64 * 64 - 1) * 3], y1 = p[(64 * 64 - 1) * 3 + 1];
    const double area = (std::abs(x1 - x0) + 1) * (y1 - y0 + 1) / (100.0 * 100.0);
    smallest = std::min(smallest, area);
    largest = std::max(largest, area);
    flips += x1 < x0;
    left += std::min(x0, x1) == 0;
  }
  BOOST_TEST(smallest >= 0.22);
  BOOST_TEST(smallest <= 0.35);
  BOOST_TEST(largest >= 0.85);
  BOOST_TEST(flips > 70);
  BOOST_TEST(flips < 130);
  BOOST_TEST(left < 100);
}

BOOST_AUTO_TEST_CASE(augmentations_that_are_none_are_refused) {
  const ImageProcessor processor = ImageProcessor::load(kProcessors / "clip");
  for (const Augmentation& wrong : {Augmentation{.smallest_area = 1.5}, Augmentation{.smallest_area = -0.1},
                                    Augmentation{.widest = 0.5}, Augmentation{.flip = 2}, Augmentation{.flip = NAN}}) {
    BOOST_CHECK_EXCEPTION(processor.pixels(kPair[0], wrong, 0, 0), ValueError, says({"smallest_area", "flip"}));
  }
}

BOOST_AUTO_TEST_SUITE_END()
