#pragma once

#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

#include "tapecache/core/dtype.h"
#include "tapecache/core/element.h"
#include "tapecache/ops/cpu/cpu_kernels.h"

/// Loops over arrays in whole vectors of the instruction set that this file is compiled for. The elements that fill no
/// vector go through the same arithmetic in a vector whose other lanes are idle, so that an element's bits do not
/// depend on where it stands. Elements of bf16 and f16 are computed with in f32.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace hn = hwy::HWY_NAMESPACE;

/// After the parameters of a lambda over vectors: a call would pass them through memory, however large the lambda is.
#define TAPECACHE_INLINE __attribute__((always_inline))

template <class T>
using Tag = hn::ScalableTag<T>;
template <class T>
using Vec = hn::Vec<Tag<T>>;
/// Elements of a vector.
template <class T>
inline constexpr std::int64_t kVecLanes = static_cast<std::int64_t>(hn::MaxLanes(Tag<T>()));

template <class T>
HWY_INLINE Vec<T> set(T value) {
  return hn::Set(Tag<T>(), value);
}
template <class T>
HWY_INLINE Vec<T> zeros() {
  return hn::Zero(Tag<T>());
}
template <class T>
HWY_INLINE auto first_lanes(std::int64_t count) {
  return hn::FirstN(Tag<T>(), static_cast<std::size_t>(count));
}

// --- whole vectors ---

template <class T>
HWY_INLINE Vec<T> load(const T* from) {
  return hn::LoadU(Tag<T>(), from);
}
template <class T>
HWY_INLINE void store(const Vec<T>& values, T* to) {
  hn::StoreU(values, Tag<T>(), to);
}

HWY_INLINE Vec<float> load(const BFloat16* from) {
  const hn::Rebind<std::uint16_t, Tag<float>> half;
  const Tag<std::uint32_t> words;
  const auto bits = hn::LoadU(half, reinterpret_cast<const std::uint16_t*>(from));
  return hn::BitCast(Tag<float>(), hn::ShiftLeft<16>(hn::PromoteTo(words, bits)));
}

/// Rounds to nearest even and keeps NaN a NaN, as BFloat16's constructor does.
HWY_INLINE void store(const Vec<float>& values, BFloat16* to) {
  const Tag<std::uint32_t> words;
  const hn::Rebind<std::uint16_t, Tag<float>> half;
  const auto word = hn::BitCast(words, values);
  const auto odd = hn::And(hn::ShiftRight<16>(word), hn::Set(words, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(word, hn::Add(odd, hn::Set(words, 0x7fffu))));
  const auto quiet_nan = hn::Or(hn::ShiftRight<16>(word), hn::Set(words, 0x40u));
  const auto is_nan = hn::RebindMask(words, hn::Ne(values, values));
  hn::StoreU(hn::TruncateTo(half, hn::IfThenElse(is_nan, quiet_nan, rounded)), half,
             reinterpret_cast<std::uint16_t*>(to));
}

#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86  // which has instructions for them
HWY_INLINE Vec<float> load(const Float16* from) {
  const hn::Rebind<hwy::float16_t, Tag<float>> half;
  return hn::PromoteTo(Tag<float>(), hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(from)));
}
HWY_INLINE void store(const Vec<float>& values, Float16* to) {
  const hn::Rebind<hwy::float16_t, Tag<float>> half;
  hn::StoreU(hn::DemoteTo(half, values), half, reinterpret_cast<hwy::float16_t*>(to));
}
#else
HWY_INLINE Vec<float> load(const Float16* from) {
  HWY_ALIGN float wide[kVecLanes<float>];
  for (std::int64_t i = 0; i < kVecLanes<float>; ++i) wide[i] = static_cast<float>(from[i]);
  return hn::Load(Tag<float>(), wide);
}
HWY_INLINE void store(const Vec<float>& values, Float16* to) {
  HWY_ALIGN float wide[kVecLanes<float>];
  hn::Store(values, Tag<float>(), wide);
  for (std::int64_t i = 0; i < kVecLanes<float>; ++i) to[i] = Float16(wide[i]);
}
#endif

HWY_INLINE Vec<double> load_double(const double* from) { return load(from); }
HWY_INLINE Vec<double> load_double(const float* from) {
  const hn::Rebind<float, Tag<double>> half;
  return hn::PromoteTo(Tag<double>(), hn::LoadU(half, from));
}

// --- the first lanes, the others being 0 ---

/// The compiler does not see by itself that there are fewer than a vector has.
template <class T>
HWY_INLINE std::size_t bytes_of_first(std::int64_t count) {
  return static_cast<std::size_t>(count & (kVecLanes<ComputedType<T>> - 1)) * sizeof(T);
}

template <class T>
HWY_INLINE Vec<ComputedType<T>> load_first(const T* from, std::int64_t count) {
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86  // masked lanes are not read
  if constexpr (!kLowPrecision<T>) return hn::MaskedLoad(first_lanes<T>(count), Tag<T>(), from);
#endif
  T all[kVecLanes<ComputedType<T>>] = {};
  std::memcpy(all, from, bytes_of_first<T>(count));
  return load(all);
}

template <class T>
HWY_INLINE void store_first(const Vec<ComputedType<T>>& values, T* to, std::int64_t count) {
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86
  if constexpr (!kLowPrecision<T>) {
    hn::BlendedStore(values, first_lanes<T>(count), Tag<T>(), to);
    return;
  }
#endif
  T all[kVecLanes<ComputedType<T>>];
  store(values, all);
  std::memcpy(to, all, bytes_of_first<T>(count));
}

// --- loops ---

/// How a loop reads and writes at a place: a whole vector, or the first elements of one.
struct Whole {
  template <class T>
  HWY_INLINE auto load(const T* from) const {
    return cpu::load(from);
  }
  template <class T>
  HWY_INLINE Vec<double> load_double(const T* from) const {
    return cpu::load_double(from);
  }
  template <class T>
  HWY_INLINE void store(const Vec<ComputedType<T>>& values, T* to) const {
    cpu::store(values, to);
  }
};
struct First {
  std::int64_t count;

  template <class T>
  HWY_INLINE auto load(const T* from) const {
    return load_first(from, count);
  }
  template <class T>
  HWY_INLINE Vec<double> load_double(const T* from) const {
    T all[kVecLanes<double>] = {};
    std::memcpy(all, from, bytes_of_first<double>(count) / sizeof(double) * sizeof(T));
    return cpu::load_double(all);
  }
  template <class T>
  HWY_INLINE void store(const Vec<ComputedType<T>>& values, T* to) const {
    store_first(values, to, count);
  }
};

/// Calls body(i, at) for each vector of T that covers [0, count), `at` being how to read and write from element i on.
template <class T, class Body>
HWY_INLINE void for_each_vec(std::int64_t count, const Body& body) {
  constexpr std::int64_t kStep = kVecLanes<T>;
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) body(i, Whole());
  if (i < count) body(i, First{count - i});
}

/// y[i] = f(x[i], …) for `count` elements; y may be one of x.
template <class To, class F, class... In>
HWY_INLINE void map(std::int64_t count, To* y, const F& f, const In*... x) {
  for_each_vec<ComputedType<To>>(
      count, [&](std::int64_t i, auto at) TAPECACHE_INLINE { at.store(f(at.load(x + i)...), y + i); });
}

/// The same, or y[i] += f(x[i], …).
template <class To, class F, class... In>
HWY_INLINE void map_to(Mode mode, std::int64_t count, To* y, const F& f, const In*... x) {
  if (mode == Mode::kWrite) {
    map(count, y, f, x...);
  } else {
    map(
        count, y, [&](auto before, auto... v) TAPECACHE_INLINE { return hn::Add(before, f(v...)); },
        static_cast<const To*>(y), x...);
  }
}

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
