#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"

namespace tapecache::kernels::cuda {

namespace {

/// A thread takes a pair.
template <class T>
__global__ void rope_kernel(Rope layout, ComputedType<T> direction, const T* x, const ComputedType<T>* table, T* y,
                            Mode mode) {
  using Computed = ComputedType<T>;
  const std::int64_t half = layout.width / 2, all = layout.heads + layout.others;
  for (std::int64_t i = thread_index(); i < layout.batch * layout.tokens * all * half; i += thread_count()) {
    const std::int64_t column = i % half, head = i / half % all, token = i / half / all % layout.tokens;
    const std::int64_t at = i / half * layout.width + column;
    const Computed a = static_cast<Computed>(x[at]), b = static_cast<Computed>(x[at + half]);
    const bool rotated = head < layout.heads;
    const Computed* of_token = table + token * layout.width + column;
    const Computed cosine = rotated ? of_token[0] : Computed{1},
                   sine = rotated ? direction * of_token[half] : Computed{0};
    put(y[at], a * cosine - b * sine, mode);
    put(y[at + half], b * cosine + a * sine, mode);
  }
}

template <class T>
void rope(const Rope& layout, bool back, const T* x, const ComputedType<T>* table, T* y, Mode mode) {
  const std::int64_t pairs = layout.batch * layout.tokens * (layout.heads + layout.others) * (layout.width / 2);
  launch(rope_kernel<T>, grid_for(pairs), layout, back ? -1 : 1, x, table, y, mode);
}

template <class T>
constexpr RopeKernels<T> kRope{.rope = rope<T>};

}  // namespace

template <>
const RopeKernels<float> Provided<RopeKernels<float>>::kernels = kRope<float>;
template <>
const RopeKernels<double> Provided<RopeKernels<double>>::kernels = kRope<double>;
template <>
const RopeKernels<BFloat16> Provided<RopeKernels<BFloat16>>::kernels = kRope<BFloat16>;
template <>
const RopeKernels<Float16> Provided<RopeKernels<Float16>>::kernels = kRope<Float16>;

}  // namespace tapecache::kernels::cuda
