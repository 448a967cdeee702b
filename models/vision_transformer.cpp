#include "tapecache/models/vision_transformer.h"

#include <array>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/models/argument_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/patch_embedding.h"
#include "tapecache/ops/pooling.h"

namespace tapecache::models {

namespace {

std::int64_t patch_count(const VisionConfig& config) {
  const std::int64_t side = config.image_size / config.patch_size;
  return side * side;
}

Shape checked_patches(const Builder& builder, std::int64_t channels, std::int64_t patch, std::int64_t width) {
  detail::require_sizes(fmt::format("patch embedding '{}'", builder.prefix()),
                        {{"channels", channels}, {"patch", patch}, {"width", width}});
  return {width, channels, patch, patch};
}

}  // namespace

const VisionConfig& check_config(const VisionConfig& config) {
  if (config.patch_size < 1 || config.image_size < 1 || config.image_size % config.patch_size != 0) {
    throw ValueError(fmt::format("vision transformer: patches of {} do not divide images of {}", config.patch_size,
                                 config.image_size));
  }
  detail::require_sizes("vision transformer", {{"channels", config.channels}});
  check_config("vision transformer", config.encoder);
  return config;
}

PatchEmbedding::PatchEmbedding(const Builder& builder, std::int64_t channels, std::int64_t patch, std::int64_t width)
    : weight(builder.parameter("weight", checked_patches(builder, channels, patch, width), Init::normal(0.02))) {}

Variable PatchEmbedding::operator()(const Variable& images) const { return ops::patch_embedding(images, weight); }

VisionTransformer::VisionTransformer(const Builder& builder, const VisionConfig& config)
    : Model(builder),
      config_(check_config(config)),
      class_embedding_(builder.child("embeddings")
                           .parameter("class_embedding", {config.encoder.width},
                                      Init::normal(1.0 / std::sqrt(static_cast<double>(config.encoder.width))))),
      patches_(builder.child("embeddings").child("patch_embedding"), config.channels, config.patch_size,
               config.encoder.width),
      positions_(builder.child("embeddings").child("position_embedding"), patch_count(config) + 1, config.encoder.width,
                 Init::normal(0.01)),
      pre_norm_(builder.child("pre_layrnorm"), config.encoder.width, config.encoder.epsilon),  // spelled as published
      encoder_(builder.child("encoder"), TransformerConfig(config.encoder)),
      post_norm_(builder.child("post_layernorm"), config.encoder.width, config.encoder.epsilon) {
  class_embedding_.set("pooling", config.pooling == VisionPooling::kCls ? "cls" : "mean");
}

Variable VisionTransformer::embed(const Variable& images) const {
  const Shape expected{images.rank() > 0 ? images.size(0) : 0, config_.channels, config_.image_size,
                       config_.image_size};
  if (images.shape() != expected) {
    throw ShapeError(fmt::format("vision transformer: images have shape {}, expected [batch, {}, {}, {}]",
                                 to_string(images.shape()), config_.channels, config_.image_size, config_.image_size));
  }
  const std::int64_t batch = images.size(0), width = config_.encoder.width;
  const Variable patches = patches_(images);
  const Variable zeros(Tensor::zeros({batch, 1, width}, patches.dtype(), patches.device()));
  const std::array<Variable, 2> tokens{ops::add(zeros, class_embedding_), patches};
  return pre_norm_(ops::add(ops::concat(tokens, 1), positions_.weight));
}

Variable VisionTransformer::hidden_states(const Variable& images) const { return encoder_(embed(images)); }

Variable VisionTransformer::operator()(const Variable& images) const {
  if (config_.pooling == VisionPooling::kCls) {
    const TokenChoice cls = [](const Variable& x) { return ops::cls_pool(x); };
    return post_norm_(encoder_(embed(images), {}, cls));
  }
  const Variable encoded = hidden_states(images);
  return post_norm_(ops::mean_pool(ops::slice(encoded, 1, 1, encoded.size(1))));
}

}  // namespace tapecache::models
