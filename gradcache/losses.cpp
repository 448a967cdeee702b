#include "tapecache/gradcache/losses.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "tapecache/ops/cross_entropy.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/matmul.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::gradcache {

namespace {

void require_rows(const char* loss, const Variable& a, const Variable& b, const char* name_a, const char* name_b) {
  const bool fits = a.defined() && b.defined() && a.rank() == 2 && b.rank() == 2 && a.size(1) == b.size(1) &&
                    a.size(0) > 0 && b.size(0) > 0;
  if (!fits) {
    throw ShapeError(fmt::format("{}: {} are {} and {} {}, expected [rows, width] of one width", loss, name_a,
                                 describe(a.value()), name_b, describe(b.value())));
  }
}

void require_pairs(const char* loss, const Variable& images, const Variable& texts) {
  require_rows(loss, images, texts, "images", "texts");
  if (images.size(0) != texts.size(0)) {
    throw ShapeError(fmt::format("{}: {} images and {} texts, expected as many of each", loss, images.size(0),
                                 texts.size(0)));
  }
}

void require_scalar(const char* loss, const char* argument, const Variable& x) {
  if (!x.defined() || x.numel() != 1 || x.rank() > 1) {
    throw ShapeError(fmt::format("{}: {} is {}, expected a scalar", loss, argument, describe(x.value())));
  }
}

/// [0, step, 2·step, …]
Tensor every(std::int64_t step, std::int64_t count) {
  Tensor index = Tensor::empty({count}, DType::kInt64);
  for (std::int64_t i = 0; i < count; ++i) index.mutable_data<std::int64_t>()[i] = i * step;
  return index;
}

Variable clamped_scale(const Variable& log_scale) {
  return ops::exp(ops::clamp(log_scale, -std::numeric_limits<double>::infinity(), std::log(kMaxLogitScale)));
}

/// scale · a bᵀ, with the factor on the smaller operand instead of the product
Variable scaled_logits(const Variable& a, const Variable& b, const Variable& scale) {
  return ops::matmul(ops::multiply(a, scale), b, {.transpose_b = true});
}

}  // namespace

Variable info_nce(const Variable& queries, const Variable& targets, const Variable& scale) {
  require_rows("info_nce", queries, targets, "queries", "targets");
  require_scalar("info_nce", "scale", scale);
  const std::int64_t m = queries.size(0);
  if (targets.size(0) % m != 0) {
    throw ShapeError(fmt::format("info_nce: {} targets for {} queries, expected a multiple: one positive and h hard "
                                 "negatives each", targets.size(0), m));
  }
  const Tensor positives = every(targets.size(0) / m, m).to(queries.device());
  return ops::cross_entropy(scaled_logits(queries, targets, scale), positives);
}

Variable info_nce(const Variable& queries, const Variable& targets, double scale) {
  require_rows("info_nce", queries, targets, "queries", "targets");
  return info_nce(queries, targets, Variable(Tensor::full({}, scale, queries.dtype(), queries.device())));
}

Variable clip_loss(const Variable& images, const Variable& texts, const Variable& log_scale) {
  require_pairs("clip_loss", images, texts);
  require_scalar("clip_loss", "log_scale", log_scale);
  const Tensor diagonal = every(1, images.size(0)).to(images.device());
  const Variable logits = scaled_logits(images, texts, clamped_scale(log_scale));
  const Variable image_to_text = ops::cross_entropy(logits, diagonal);
  const Variable text_to_image = ops::cross_entropy(ops::transpose(logits, 0, 1), diagonal);
  return ops::scale(ops::add(image_to_text, text_to_image), 0.5);
}

Variable siglip_loss(const Variable& images, const Variable& texts, const Variable& log_scale, const Variable& bias) {
  require_pairs("siglip_loss", images, texts);
  require_scalar("siglip_loss", "log_scale", log_scale);
  require_scalar("siglip_loss", "bias", bias);
  const std::int64_t n = images.size(0);
  // -z: softplus(-z · logit) = -log σ(z · logit)
  Tensor sign = Tensor::full({n, n}, 1.0, images.dtype());
  dispatch_floating("siglip_loss", sign.dtype(), [&]<class T>() {
    T* p = sign.mutable_data<T>();
    for (std::int64_t i = 0; i < n; ++i) p[i * n + i] = T{-1};
  });
  const Variable logits = ops::add(scaled_logits(images, texts, ops::exp(log_scale)), bias);
  const Variable losses = ops::softplus(ops::multiply(logits, Variable(sign.to(images.device()))));
  return ops::scale(ops::sum(losses), 1.0 / static_cast<double>(n));
}

void clamp_log_scale(Parameter& log_scale) {
  const double limit = std::log(kMaxLogitScale);
  if (log_scale.value().item() > limit) log_scale.mutable_value().fill(limit);
}

}  // namespace tapecache::gradcache
