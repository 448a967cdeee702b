#include "tapecache/ops/patch_embedding.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"

namespace tapecache::ops {

namespace {

using kernels::KernelTable;

/// Images [batch, channels, height, width] as rows of patches [batch, patches, channels · patch · patch].
Variable patches(const Variable& images, std::int64_t patch) {
  constexpr const char* kOp = "patch_embedding";
  const std::int64_t batch = images.size(0), channels = images.size(1), height = images.size(2),
                     width = images.size(3);
  Tensor rows = Tensor::empty({batch, (height / patch) * (width / patch), channels * patch * patch}, images.dtype(),
                              images.device());
  dispatch_floating(kOp, images.dtype(), [&]<class T>() {
    kernels::find(&KernelTable<T>::patches, kOp, images.device())(batch, channels, height, width, patch,
                                                                  images.value().data<T>(), rows.mutable_data<T>());
  });
  return record("patches", std::move(rows), {images}, {}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      kernels::find(&KernelTable<T>::patches_backward, kOp, dy.device())(
          batch, channels, height, width, patch, dy.data<T>(), dx.tensor.mutable_data<T>(), detail::mode_of(dx));
    });
  });
}

}  // namespace

Variable patch_embedding(const Variable& images, const Variable& weight, const Variable& bias) {
  constexpr const char* kOp = "patch_embedding";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "images", images, 4);
  detail::require_alike(kOp, images, "weight", weight);
  if (images.rank() != 4 || weight.rank() != 4 || weight.size(1) != images.size(1) ||
      weight.size(2) != weight.size(3) || weight.size(2) == 0) {
    throw ShapeError(fmt::format("{}: images {} and weight {}, expected [batch, channels, height, width] and [out, "
                                 "channels, patch, patch]", kOp, to_string(images.shape()), to_string(weight.shape())));
  }
  const std::int64_t patch = weight.size(2);
  if (images.size(2) % patch != 0 || images.size(3) % patch != 0) {
    throw ShapeError(fmt::format("{}: images {} are not divided into patches of {}", kOp, to_string(images.shape()),
                                 patch));
  }
  if (bias.defined()) {
    detail::require_alike(kOp, images, "bias", bias);
    detail::require_shape(kOp, "bias", bias.shape(), {weight.size(0)});
  }
  const Variable flat_weight = reshape(weight, {weight.size(0), weight.shape().product(1, 4)});
  return linear(patches(images, patch), flat_weight, bias);
}

}  // namespace tapecache::ops
