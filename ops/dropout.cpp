#include "tapecache/ops/dropout.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

using kernels::KernelTable;

namespace {

kernels::Samples samples_of(std::int64_t first, std::int64_t count, const Tensor& ids) {
  return {first, count, ids.defined() ? ids.data<std::int64_t>() : nullptr};
}

}  // namespace

Variable dropout(const Variable& x, double probability) {
  constexpr const char* kOp = "dropout";
  const OpScope scope(kOp);
  detail::require_floating(kOp, "x", x, 1);
  if (!(probability >= 0 && probability < 1)) {
    throw ValueError(fmt::format("{}: probability is {}, expected 0 <= p < 1", kOp, probability));
  }
  const RandomDraw draw = next_random_draw(kOp, x.size(0));
  if (probability == 0) return x;
  const std::int64_t per_sample = draw.samples > 0 ? x.numel() / draw.samples : 0;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_floating(kOp, x.dtype(), [&]<class T>() {
    kernels::find(&KernelTable<T>::dropout, kOp, x.device())(
        draw.key, samples_of(draw.first_sample, draw.samples, draw.sample_ids), per_sample, probability,
        x.value().data<T>(), y.mutable_data<T>(), kernels::Mode::kWrite);
  });
  const bool ordered = !draw.sample_ids.defined();  // then nothing is kept: the key gives the mask again
  std::vector<Tensor> saved = ordered ? std::vector<Tensor>{} : std::vector<Tensor>{draw.sample_ids};
  return record(kOp, std::move(y), {x}, std::move(saved), [=, key = draw.key, first = draw.first_sample,
                                                           count = draw.samples](Backward& ctx) {
    // dx = dy keep / (1 - p), with keep drawn again from its key
    const Tensor& dy = ctx.output_gradient();
    GradientTarget dx = ctx.gradient(0);
    dispatch_floating(kOp, dy.dtype(), [&]<class T>() {
      kernels::find(&KernelTable<T>::dropout, kOp, dy.device())(key, samples_of(first, count, ordered ? Tensor() : ctx.saved(0)),
                                                                per_sample, probability, dy.data<T>(),
                                                                dx.tensor.mutable_data<T>(), detail::mode_of(dx));
    });
  });
}

}  // namespace tapecache::ops
