#include "tapecache/ops/elementwise.h"

#include <fmt/format.h>

#include "tapecache/core/op_scope.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/call.h"
#include "tapecache/ops/checks.h"

namespace tapecache::ops {

Tensor sample_uniform(std::int64_t samples, std::int64_t per_sample, Device device) {
  constexpr const char* kOp = "sample_uniform";
  const OpScope scope(kOp);
  if (samples < 0 || per_sample < 0) {
    throw ValueError(
        fmt::format("{}: {} samples of {} draws, expected neither to be negative", kOp, samples, per_sample));
  }
  Tensor y = Tensor::empty({samples, per_sample}, DType::kFloat32, device);
  const RandomState draw = next_random_draw(kOp, samples);
  if (y.numel() == 0) return y;
  const Tensor ids = draw.sample_ids.defined() ? draw.sample_ids.to(device) : Tensor();
  const kernels::Samples in_view{draw.first_sample, draw.samples, ids.defined() ? ids.data<std::int64_t>() : nullptr};
  detail::call(kOp, device, &kernels::DropoutKernels<float>::sample_uniform, draw.key, in_view,
               y.numel() / draw.samples, y);
  return y;
}

}  // namespace tapecache::ops
