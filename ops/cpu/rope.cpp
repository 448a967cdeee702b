#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/vec.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

template <class T>
void rope(const Rope& layout, bool back, const T* x, const ComputedType<T>* table, T* y, Mode mode) {
  const std::int64_t width = layout.width, half = width / 2, row = (layout.heads + layout.others) * width;
  const ComputedType<T> direction = back ? -1 : 1;
  parallel_for(layout.batch * layout.tokens, block_for(row), [=](std::int64_t begin, std::int64_t end) {
    const auto turn = set(direction);
    for (std::int64_t i = begin; i < end; ++i) {
      const ComputedType<T>*cosines = table + i % layout.tokens * width, *sines = cosines + half;
      const T* from = x + i * row;
      T* to = y + i * row;
      for (std::int64_t head = 0; head < layout.heads; ++head, from += width, to += width) {
        map_to(
            mode, half, to,
            [=](auto a, auto b, auto cosine, auto sine)
                TAPECACHE_INLINE { return hn::NegMulAdd(b, hn::Mul(turn, sine), hn::Mul(a, cosine)); },
            from, from + half, cosines, sines);
        map_to(
            mode, half, to + half,
            [=](auto a, auto b, auto cosine, auto sine)
                TAPECACHE_INLINE { return hn::MulAdd(a, hn::Mul(turn, sine), hn::Mul(b, cosine)); },
            from, from + half, cosines, sines);
      }
      map_to(
          mode, layout.others * width, to, [](auto v) TAPECACHE_INLINE { return v; }, from);
    }
  });
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

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
