#include "tapecache/models/clip.h"

#include <cmath>

#include <fmt/format.h>

#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/normalize.h"

namespace tapecache::models {

namespace {

Init projection_init(std::int64_t width) { return Init::normal(1.0 / std::sqrt(static_cast<double>(width))); }

}  // namespace

const ClipConfig& ClipConfig::checked() const {
  vision.checked();
  text.checked();
  detail::require_sizes("clip", {{"projection_width", projection_width}});
  if (!(initial_temperature > 0 && std::isfinite(initial_temperature))) {
    throw ValueError(fmt::format("clip: initial_temperature is {}, expected above 0 and finite", initial_temperature));
  }
  return *this;
}

Clip::Clip(const Builder& builder, const ClipConfig& config)
    : Model(builder),
      vision_(builder.child("vision_model"), config.checked().vision),
      text_(builder.child("text_model"), config.text),
      visual_projection_(builder.child("visual_projection"), config.vision.encoder.width, config.projection_width,
                         projection_init(config.vision.encoder.width), false),
      text_projection_(builder.child("text_projection"), config.text.encoder.width, config.projection_width,
                       projection_init(config.text.encoder.width), false),
      logit_scale_(builder.parameter("logit_scale", {}, Init::constant(std::log(1.0 / config.initial_temperature)))) {}

Variable Clip::encode_image(const Variable& images, bool normalize) const {
  const Variable projected = visual_projection_(vision_(images));
  return normalize ? ops::l2_normalize(projected) : projected;
}

Variable Clip::encode_text(const TokenBatch& tokens, bool normalize) const {
  const Variable projected = text_projection_(text_(tokens));
  return normalize ? ops::l2_normalize(projected) : projected;
}

}  // namespace tapecache::models
