#include "tapecache/core/element.h"
#include "tapecache/ops/layout.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/gemm.h"
#include "tapecache/ops/low_precision.h"

namespace tapecache::ops {

using kernels::Mode;
using kernels::PatchKernels;

namespace {

constexpr const char* kOp = "patch_embedding";

/// Images [batch, channels, height, width] as rows of patches [batch · patches, channels · patch · patch], in the type
/// of an operand.
Tensor patches(const Tensor& images, std::int64_t patch, DType operand) {
  const std::int64_t batch = images.size(0), channels = images.size(1), height = images.size(2), width = images.size(3);
  Tensor rows =
      Tensor::empty({batch * (height / patch) * (width / patch), channels * patch * patch}, operand, images.device());
  dispatch_any_floating(kOp, operand, [&]<class T>() {
    detail::call(kOp, images.device(), &PatchKernels<T>::patches, batch, channels, height, width, patch, images, rows);
  });
  return rows;
}

void check(const Variable& images, const Variable& weight, const Variable& bias) {
  detail::require_floating(kOp, "images", images, 4);
  detail::require_alike(kOp, "images", images, "weight", weight);
  if (images.rank() != 4 || weight.rank() != 4 || weight.size(1) != images.size(1) ||
      weight.size(2) != weight.size(3) || weight.size(2) == 0) {
    throw ShapeError(
        fmt::format("{}: images {} and weight {}, expected [batch, channels, height, width] and [out, "
                    "channels, patch, patch]",
                    kOp, to_string(images.shape()), to_string(weight.shape())));
  }
  const std::int64_t patch = weight.size(2);
  if (images.size(2) % patch != 0 || images.size(3) % patch != 0) {
    throw ShapeError(
        fmt::format("{}: images {} are not divided into patches of {}", kOp, to_string(images.shape()), patch));
  }
  if (bias.defined()) {
    detail::require_alike(kOp, "images", images, "bias", bias);
    detail::require_shape(kOp, "bias", bias.shape(), {weight.size(0)});
  }
}

}  // namespace

Variable patch_embedding(const Variable& images, const Variable& weight, const Variable& bias) {
  const OpScope scope(kOp);
  check(images, weight, bias);
  const std::int64_t batch = images.size(0), channels = images.size(1), height = images.size(2), width = images.size(3),
                     patch = weight.size(2), out = weight.size(0);
  const std::int64_t in = channels * patch * patch, rows = batch * (height / patch) * (width / patch);
  Tensor y = Tensor::empty({batch, (height / patch) * (width / patch), out}, images.dtype(), images.device());
  const DType operand = detail::operand_type(images.value());
  const Tensor w = detail::weight_in_type(kOp, weight, operand);
  detail::gemm(kOp, {1, rows, out, in, false, true}, patches(images.value(), patch, operand), w, bias.value(), {}, y,
               Mode::kWrite);
  return record(kOp, std::move(y), {images, weight, bias}, {images.value(), w}, [=](Backward& ctx) {
    const Tensor& dy = ctx.output_gradient();
    const auto [low_dy, bias_done] = detail::gradient_in_type(kOp, ctx, 2, dy, operand);
    if (ctx.needs(0)) {  // dP = dY W, put back where the patches were
      Tensor dpatches = Tensor::empty({rows, in}, dy.dtype(), dy.device());
      detail::gemm(kOp, {1, rows, in, out, false, false}, low_dy, ctx.saved(1), {}, {}, dpatches, Mode::kWrite);
      GradientTarget dx = ctx.gradient(0);
      dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
        detail::call(kOp, dy.device(), &PatchKernels<T>::patches_backward, batch, channels, height, width, patch,
                     dpatches, dx, dx);
      });
    }
    // dW = dYᵀ P, the patches taken again; db = Σ_rows dY
    const Tensor again = ctx.needs(1) ? patches(ctx.saved(0), patch, operand) : Tensor();
    detail::parameter_gradients(kOp, {1, out, in, rows, true, false}, dy, low_dy, again, detail::wanted(ctx, 1),
                                bias_done ? GradientTarget() : detail::wanted(ctx, 2));
  });
}

}  // namespace tapecache::ops
