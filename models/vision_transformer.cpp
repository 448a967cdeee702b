#include "tapecache/models/vision_transformer.h"

#include <cmath>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "tapecache/models/argument_checks.h"
#include "tapecache/models/attention_pool.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::models {

namespace {

std::int64_t patch_count(const VisionConfig& config) {
  const std::int64_t side = config.image_size / config.patch_size;
  return side * side;
}

const char* name(VisionConfig::Pooling pooling) {
  switch (pooling) {
    case VisionConfig::Pooling::kCls:
      return "cls";
    case VisionConfig::Pooling::kMean:
      return "mean";
    case VisionConfig::Pooling::kAttention:
      return "attention";
  }
  throw ValueError(fmt::format("vision transformer: pooling is {}, expected one there is", static_cast<int>(pooling)));
}

Parameter make_class_embedding(const Builder& builder, const VisionConfig& config) {
  if (!config.class_token) return {};
  const double spread = 1.0 / std::sqrt(static_cast<double>(config.encoder.width));
  return builder.parameter("class_embedding", {config.encoder.width}, Init::normal(spread));
}

Shape checked_patches(const Builder& builder, std::int64_t channels, std::int64_t patch, std::int64_t width) {
  detail::require_sizes(fmt::format("patch embedding '{}'", builder.prefix()),
                        {{"channels", channels}, {"patch", patch}, {"width", width}});
  return {width, channels, patch, patch};
}

}  // namespace

struct [[gnu::visibility("hidden")]] VisionTransformer::AttentionPool : detail::AttentionPool {
  using detail::AttentionPool::AttentionPool;
};

const VisionConfig& VisionConfig::checked() const {
  if (patch_size < 1 || image_size < 1 || image_size % patch_size != 0) {
    throw ValueError(
        fmt::format("vision transformer: patches of {} do not divide images of {}", patch_size, image_size));
  }
  detail::require_sizes("vision transformer", {{"channels", channels}});
  if (pooling == VisionConfig::Pooling::kCls && !class_token) {
    throw ValueError("vision transformer: pools the class token, but class_token is false");
  }
  encoder.checked("vision transformer");
  return *this;
}

PatchEmbedding::PatchEmbedding(const Builder& builder, std::int64_t channels, std::int64_t patch, std::int64_t width,
                               bool with_bias)
    : weight(builder.parameter("weight", checked_patches(builder, channels, patch, width), Init::normal(0.02))) {
  if (with_bias) bias = builder.parameter("bias", {width}, Init::constant(0));
}

Variable PatchEmbedding::operator()(const Variable& images) const {
  return ops::patch_embedding(images, weight, bias.defined() ? Variable(bias) : Variable());
}

VisionTransformer::VisionTransformer(const Builder& builder, const VisionConfig& config)
    : Model(builder),
      config_(config.checked()),
      class_embedding_(make_class_embedding(builder.child("embeddings"), config)),
      patches_(builder.child("embeddings").child("patch_embedding"), config.channels, config.patch_size,
               config.encoder.width, config.patch_bias),
      positions_(builder.child("embeddings").child("position_embedding"),
                 patch_count(config) + (config.class_token ? 1 : 0), config.encoder.width, Init::normal(0.01)),
      pre_norm_(config.pre_norm
                    ? std::optional<LayerNorm>(std::in_place, builder.child("pre_layrnorm"),  // as published
                                               config.encoder.width, config.encoder.epsilon)
                    : std::nullopt),
      encoder_(builder.child("encoder"), TransformerConfig(config.encoder)),
      post_norm_(builder.child("post_layernorm"), config.encoder.width, config.encoder.epsilon) {
  (class_embedding_.defined() ? class_embedding_ : positions_.weight).set("pooling", name(config.pooling));
  if (config.pooling == VisionConfig::Pooling::kAttention) {
    attention_pool_ = std::make_shared<const AttentionPool>(builder.child("head"), TransformerConfig(config.encoder));
  }
}

Variable VisionTransformer::embed(const Variable& images) const {
  const Shape expected{images.rank() > 0 ? images.size(0) : 0, config_.channels, config_.image_size,
                       config_.image_size};
  if (images.shape() != expected) {
    throw ShapeError(fmt::format("vision transformer: images have shape {}, expected [batch, {}, {}, {}]",
                                 to_string(images.shape()), config_.channels, config_.image_size, config_.image_size));
  }
  const std::int64_t batch = images.size(0), width = config_.encoder.width;
  Variable tokens = patches_(images);
  if (class_embedding_.defined()) {
    const Variable zeros(Tensor::zeros({batch, 1, width}, tokens.dtype(), tokens.device()));
    tokens = ops::concat({ops::add(zeros, class_embedding_), tokens}, 1);
  }
  tokens = ops::add(tokens, positions_.weight);
  return pre_norm_ ? (*pre_norm_)(tokens) : tokens;
}

Variable VisionTransformer::hidden_states(const Variable& images) const { return encoder_(embed(images)); }

Variable VisionTransformer::operator()(const Variable& images) const {
  if (config_.pooling == VisionConfig::Pooling::kCls) {
    const TransformerEncoder::TokenChoice cls = [](const Variable& x) { return ops::cls_pool(x); };
    return post_norm_(encoder_(embed(images), {}, cls));
  }
  const Variable encoded = hidden_states(images);
  if (config_.pooling == VisionConfig::Pooling::kAttention) return (*attention_pool_)(post_norm_(encoded));
  return post_norm_(ops::mean_pool(config_.class_token ? ops::slice(encoded, 1, 1, encoded.size(1)) : encoded));
}

}  // namespace tapecache::models
