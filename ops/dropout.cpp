#include "tapecache/ops/elementwise.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::DropoutKernels;

namespace {

kernels::Samples samples_of(std::int64_t first, std::int64_t count, const Tensor& ids) {
  return {first, count, ids.defined() ? ids.data<std::int64_t>() : nullptr};
}

enum class Unit { kElement, kSample };  // what is kept or dropped as a whole

template <class T>
auto kernel_of(Unit unit) {
  return unit == Unit::kElement ? &DropoutKernels<T>::dropout : &DropoutKernels<T>::drop_path;
}

Variable drop(const char* op, Unit unit, const Variable& x, double probability) {
  const OpScope scope(op);
  detail::require_floating(op, "x", x, 1);
  if (!(probability >= 0 && probability < 1)) {
    throw ValueError(fmt::format("{}: probability is {}, expected 0 <= p < 1", op, probability));
  }
  RandomState draw = next_random_draw(op, x.size(0));
  if (probability == 0) return x;
  if (draw.sample_ids.defined()) draw.sample_ids = draw.sample_ids.to(x.device());
  const std::int64_t per_sample = draw.samples > 0 ? x.numel() / draw.samples : 0;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_floating(op, x.dtype(), [&]<class T>() {
    const kernels::Samples samples = samples_of(draw.first_sample, draw.samples, draw.sample_ids);
    detail::call(op, x.device(), kernel_of<T>(unit), draw.key, samples, per_sample, probability, x, y,
                 kernels::Mode::kWrite);
  });
  const bool ordered = !draw.sample_ids.defined();  // then nothing is kept: the key gives the mask again
  std::vector<Tensor> saved = ordered ? std::vector<Tensor>{} : std::vector<Tensor>{draw.sample_ids};
  return record(op, std::move(y), {x}, saved,
                [=, key = draw.key, first = draw.first_sample, count = draw.samples](Backward& ctx) {
                  // dx = dy keep / (1 - p), with keep drawn again from its key
                  const Tensor& dy = ctx.output_gradient();
                  const kernels::Samples samples = samples_of(first, count, ordered ? Tensor() : ctx.saved(0));
                  GradientTarget dx = ctx.gradient(0);
                  dispatch_floating(op, dy.dtype(), [&]<class T>() {
                    detail::call(op, dy.device(), kernel_of<T>(unit), key, samples, per_sample, probability, dy, dx,
                                 dx);
                  });
                });
}

}  // namespace

Variable dropout(const Variable& x, double probability) { return drop("dropout", Unit::kElement, x, probability); }

Variable drop_path(const Variable& x, double probability) { return drop("drop_path", Unit::kSample, x, probability); }

}  // namespace tapecache::ops
