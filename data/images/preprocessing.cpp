#include "tapecache/data/images/preprocessing.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "tapecache/core/json_fields.h"

namespace tapecache::data::images {

namespace {

using tapecache::detail::Json;
using tapecache::detail::JsonFields;
using tapecache::detail::Problems;
using Channels = std::array<double, 3>;

constexpr Channels kClipMean{0.48145466, 0.4578275, 0.40821073}, kClipStd{0.26862954, 0.26130258, 0.27577711};
constexpr Channels kHalf{0.5, 0.5, 0.5};
constexpr int kMostSize = 1 << 14;

/// A whole number, which must be there.
int whole(const JsonFields& fields, std::string_view name, int least, int most) {
  if (!fields.has(name)) throw fields.refused(name, fmt::format("a whole number from {} to {}", least, most));
  return static_cast<int>(fields.size(name, 0, least, most));
}

/// Of three channels, or one number for all of them.
Channels channels(const JsonFields& fields, std::string_view name, const Channels& otherwise, bool divisors) {
  const Json* const found = fields.given(name);
  if (!found) return otherwise;
  Channels values{};
  const bool list = found->is(Json::Kind::kArray);
  for (std::size_t c = 0; c < values.size(); ++c) {
    const auto value = !list ? found->number() : found->items.size() == 3 ? found->items[c].number() : std::nullopt;
    const float held = static_cast<float>(value.value_or(NAN));
    if (!std::isfinite(held) || (divisors && !(held > 0))) {
      throw fields.refused(name, divisors ? "3 numbers above 0 in float32" : "3 numbers that are finite in float32");
    }
    values[c] = *value;
  }
  return values;
}

float normalized(const JsonFields& fields, std::string_view divisor, float value, double mean, double std) {
  const float result = (value - static_cast<float>(mean)) / static_cast<float>(std);
  if (std::isfinite(result)) return result;
  throw fields.refused(divisor, fmt::format("what {} less {} divided by it is finite in float32", value, mean));
}

/// A number for both sides, [height, width] or {"height": …, "width": …}.
Size size_of(const JsonFields& fields, std::string_view name) {
  const Json* const found = fields.given(name);
  const bool is_list = found && found->is(Json::Kind::kArray);
  if (!is_list && !(found && found->is(Json::Kind::kObject))) {
    const int side = whole(fields, name, 1, kMostSize);
    return {side, side};
  }
  if (is_list && found->items.size() != 2) throw fields.refused(name, "a height and a width");
  const Json sides = is_list ? Json::object({{"height", found->items[0]}, {"width", found->items[1]}}) : *found;
  const JsonFields within = fields.object(name, sides);
  within.only({"height", "width"});
  return {whole(within, "width", 1, kMostSize), whole(within, "height", 1, kMostSize)};
}

/// What the fields of transformers' image processors are where they are left out.
struct Defaults {
  std::string_view name;
  Preprocessing::Fit fit;
  bool whole_is_shortest;  ///< a size that is a number is the shorter side's
  Image::Resampling filter;
  bool crops;
  const Channels& mean;
  const Channels& std;
};
using Fit = Preprocessing::Fit;
constexpr Defaults kDefaults[] = {
    {"CLIPImageProcessor", Fit::kShortest, true, Image::Resampling::kBicubic, true, kClipMean, kClipStd},
    {"BitImageProcessor", Fit::kShortest, true, Image::Resampling::kBicubic, true, kClipMean, kClipStd},
    {"SiglipImageProcessor", Fit::kExact, true, Image::Resampling::kBicubic, false, kHalf, kHalf},
    {"ViTImageProcessor", Fit::kExact, false, Image::Resampling::kBilinear, false, kHalf, kHalf},
};
/// By Pillow's numbers.
constexpr Image::Resampling kResamplings[] = {Image::Resampling::kNearest,  Image::Resampling::kLanczos,
                                              Image::Resampling::kBilinear, Image::Resampling::kBicubic,
                                              Image::Resampling::kBox,      Image::Resampling::kHamming};

const Defaults& defaults_of(const JsonFields& fields) {
  const char* field = fields.given("image_processor_type") || !fields.given("feature_extractor_type")
                          ? "image_processor_type"
                          : "feature_extractor_type";
  std::string name = fields.text(field, "");
  for (const std::string_view ending : {"Fast", "Pil"}) {
    if (name.ends_with(ending)) name.resize(name.size() - ending.size());
  }
  if (const std::string_view older = "FeatureExtractor"; name.ends_with(older)) {
    name.replace(name.size() - older.size(), older.size(), "ImageProcessor");
  }
  const auto found = std::ranges::find(kDefaults, name, &Defaults::name);
  if (found == std::end(kDefaults)) {
    throw fields.refused(field, "CLIPImageProcessor, SiglipImageProcessor, ViTImageProcessor or BitImageProcessor");
  }
  return *found;
}

Preprocessing of_transformers(const JsonFields& fields) {
  const Defaults& defaults = defaults_of(fields);
  // Those that say nothing of the pixels of a file, which is RGB as it is read, are known as well.
  fields.only({"image_processor_type",
               "feature_extractor_type",
               "processor_class",
               "do_resize",
               "size",
               "resample",
               "do_center_crop",
               "crop_size",
               "do_rescale",
               "rescale_factor",
               "do_normalize",
               "image_mean",
               "image_std",
               "do_convert_rgb",
               "default_to_square",
               "data_format",
               "input_data_format",
               "return_tensors",
               "device",
               "disable_grouping",
               "_valid_processor_keys"});
  Preprocessing steps;
  if (fields.flag("do_resize", true)) {
    const Json* const size = fields.given("size");
    steps.fit = defaults.fit;
    steps.size = {224, 224};
    if (size && size->is(Json::Kind::kObject) && size->find("shortest_edge")) {
      const JsonFields edge = fields.object("size");
      edge.only({"shortest_edge"});
      steps.fit = Fit::kShortest;
      steps.size.width = whole(edge, "shortest_edge", 1, kMostSize);
    } else if (size) {
      const bool is_number = size->is(Json::Kind::kNumber);
      steps.fit =
          is_number && !fields.flag("default_to_square", !defaults.whole_is_shortest) ? Fit::kShortest : Fit::kExact;
      steps.size = size_of(fields, "size");
    }
    const bool chosen = fields.given("resample") != nullptr;
    steps.filter = chosen ? kResamplings[whole(fields, "resample", 0, 5)] : defaults.filter;
  }
  if (fields.flag("do_center_crop", defaults.crops)) {
    if (!fields.given("crop_size") && !defaults.crops) throw fields.refused("crop_size", "a height and a width");
    steps.crop = fields.given("crop_size") ? size_of(fields, "crop_size") : Size{224, 224};
  }
  const bool rescales = fields.flag("do_rescale", true), normalizes = fields.flag("do_normalize", true);
  const double factor = fields.number("rescale_factor", 1 / 255.0);
  const Channels mean = channels(fields, "image_mean", defaults.mean, false);
  const Channels std = channels(fields, "image_std", defaults.std, true);
  if (!std::isfinite(static_cast<float>(255 * factor))) {
    throw fields.refused("rescale_factor", "a number by which 255 is finite in float32");
  }
  for (std::size_t c = 0; c < 3; ++c) {
    for (int sample = 0; sample < 256; ++sample) {
      float value = rescales ? static_cast<float>(sample * factor) : static_cast<float>(sample);
      if (normalizes) value = normalized(fields, "image_std", value, mean[c], std[c]);
      steps.values[c][static_cast<std::size_t>(sample)] = value;
    }
  }
  return steps;
}

Preprocessing of_open_clip(const JsonFields& root) {
  const JsonFields fields = root.object("preprocess_cfg"), vision = root.object("model_cfg").object("vision_cfg");
  fields.only({"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"});
  Preprocessing steps;
  steps.orient = false;
  steps.centre_to_even = true;
  // The model's own size counts, whatever the other one is.
  const Size size = vision.given("image_size") ? size_of(vision, "image_size") : Size{224, 224};
  const std::string mode = fields.text("resize_mode", "shortest"), filter = fields.text("interpolation", "bicubic");
  if (fields.text("mode", "RGB") != "RGB") throw fields.refused("mode", "RGB");
  if (filter != "bicubic" && filter != "bilinear" && filter != "random") {
    throw fields.refused("interpolation", "bicubic, bilinear or random (bicubic, where nothing is trained)");
  }
  steps.filter = filter == "bilinear" ? Image::Resampling::kBilinear : Image::Resampling::kBicubic;
  steps.size = size;
  if (mode != "squash") steps.crop = size;
  if (mode == "squash") {
    steps.fit = Fit::kExact;
  } else if (mode == "longest") {
    steps.fit = Fit::kWithin;
    steps.fill = static_cast<std::uint8_t>(fields.given("fill_color") ? whole(fields, "fill_color", 0, 255) : 0);
  } else if (mode == "shortest") {
    steps.fit = size.width == size.height ? Fit::kShortest : Fit::kCover;
    if (steps.fit == Fit::kCover) steps.filter = Image::Resampling::kBicubic;  // whatever the file says
  } else {
    throw fields.refused("resize_mode", "shortest, longest or squash");
  }
  const Channels mean = channels(fields, "mean", kClipMean, false), std = channels(fields, "std", kClipStd, true);
  for (std::size_t c = 0; c < 3; ++c) {
    for (int sample = 0; sample < 256; ++sample) {
      steps.values[c][static_cast<std::size_t>(sample)] =
          normalized(fields, "std", static_cast<float>(sample) / 255.0f, mean[c], std[c]);
    }
  }
  return steps;
}

Preprocessing of_file(const std::filesystem::path& path) {
  const Json json = tapecache::detail::read_json(path);
  Problems first(Problems::Tell::kAtOnce);
  const JsonFields fields(path, json, first);
  if (json.find("image_processor")) return of_transformers(fields.object("image_processor"));
  return json.find("model_cfg") ? of_open_clip(fields) : of_transformers(fields);
}

}  // namespace

Preprocessing read_preprocessing(const std::filesystem::path& folder_or_file) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder_or_file, error)) return of_file(folder_or_file);
  // In the order in which transformers looks. Without its config.json the folder is OpenCLIP's, which has one file.
  const auto processor = folder_or_file / "processor_config.json", own = folder_or_file / "preprocessor_config.json",
             open_clip = folder_or_file / "open_clip_config.json";
  if (std::filesystem::exists(open_clip, error) && !std::filesystem::exists(folder_or_file / "config.json", error)) {
    return of_file(open_clip);
  }
  if (std::filesystem::exists(processor, error)) {
    const Json json = tapecache::detail::read_json(processor);
    if (json.find("image_processor")) return of_file(processor);
  }
  if (std::filesystem::exists(own, error)) return of_file(own);
  if (std::filesystem::exists(open_clip, error)) return of_file(open_clip);
  throw FileError(
      fmt::format("{}: holds no preprocessor_config.json, processor_config.json with an 'image_processor', "
                  "or open_clip_config.json, which say how images are prepared",
                  folder_or_file.string()));
}

Size resized_size(const Preprocessing& steps, Size picture) {
  const auto [width, height] = picture;
  switch (steps.fit) {
    case Fit::kNone:
      return picture;
    case Fit::kExact:
      return steps.size;
    case Fit::kShortest:
      break;
    case Fit::kCover:
    case Fit::kWithin: {
      const double down = static_cast<double>(height) / steps.size.height;
      const double across = static_cast<double>(width) / steps.size.width;
      const double ratio = steps.fit == Fit::kWithin ? std::max(down, across) : std::min(down, across);
      return {std::max(1, static_cast<int>(std::nearbyint(width / ratio))),
              std::max(1, static_cast<int>(std::nearbyint(height / ratio)))};
    }
  }
  const std::int64_t edge = steps.size.width, shorter = std::min(width, height), longer = std::max(width, height);
  const auto other = static_cast<int>(std::min<std::int64_t>(edge * longer / shorter, std::int64_t{1} << 30));
  return width <= height ? Size{static_cast<int>(edge), other} : Size{other, static_cast<int>(edge)};
}

}  // namespace tapecache::data::images
