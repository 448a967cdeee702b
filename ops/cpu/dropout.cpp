#include <cstring>

#include "tapecache/ops/cpu/vec.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kCounters = 16;          // of Philox, computed side by side
constexpr std::int64_t kGroup = 4 * kCounters;  // elements they serve

using Words = Vec<std::uint64_t>;

/// RandomKey::draw for blocks first … first + kCounters - 1 of one sample, element by element. Each word has 64 bits of
/// a vector for itself: the products need them whole.
void draw_group(const RandomKey& key, std::uint32_t sample, std::uint32_t first, std::uint32_t* words) {
  constexpr std::int64_t kStep = kVecLanes<std::uint64_t>, kVectors = 2;  // with more, registers do not suffice
  static_assert(kCounters % (kVectors * kStep) == 0);
  const Tag<std::uint64_t> tag;
  const Tag<std::uint32_t> narrow;
  const auto times = [=](Words a, std::uint64_t b) TAPECACHE_INLINE {
    return hn::MulEven(hn::BitCast(narrow, a), hn::BitCast(narrow, hn::Set(tag, b)));
  };
  const Words low = hn::Set(tag, std::uint64_t{0xFFFFFFFF});
  for (std::int64_t at = 0; at < kCounters; at += kVectors * kStep) {
    Words c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (std::int64_t v = 0; v < kVectors; ++v) {
      c0[v] = hn::Iota(tag, first + static_cast<std::uint64_t>(at + v * kStep));
      c1[v] = hn::Set(tag, std::uint64_t{sample});
      c2[v] = hn::Set(tag, std::uint64_t{key.call});
      c3[v] = hn::Set(tag, std::uint64_t{key.step.value});
    }
    auto k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
      const Words key0 = hn::Set(tag, std::uint64_t{k0}), key1 = hn::Set(tag, std::uint64_t{k1});
      HWY_UNROLL(2)
      for (std::int64_t v = 0; v < kVectors; ++v) {
        const Words a = times(c0[v], 0xD2511F53), b = times(c2[v], 0xCD9E8D57);
        c0[v] = hn::Xor(hn::ShiftRight<32>(b), hn::Xor(c1[v], key0));
        c2[v] = hn::Xor(hn::ShiftRight<32>(a), hn::Xor(c3[v], key1));
        c1[v] = b;  // the next products and the words below take its lower half alone
        c3[v] = a;
      }
    }
    // Words 0 and 1, and 2 and 3, side by side in 64 bits; a counter's four are 16 bytes.
    for (std::int64_t v = 0; v < kVectors; ++v) {
      HWY_ALIGN std::uint64_t front[kStep], back[kStep];
      hn::Store(hn::Or(hn::And(c0[v], low), hn::ShiftLeft<32>(c1[v])), tag, front);
      hn::Store(hn::Or(hn::And(c2[v], low), hn::ShiftLeft<32>(c3[v])), tag, back);
      for (std::int64_t i = 0; i < kStep; ++i) {
        std::uint32_t* to = words + 4 * (at + v * kStep + i);
        std::memcpy(to, &front[i], sizeof(std::uint64_t));
        std::memcpy(to + 2, &back[i], sizeof(std::uint64_t));
      }
    }
  }
}

/// `uniform` of each word.
Vec<float> uniforms(const std::uint32_t* words) {
  const auto bits = hn::BitCast(Tag<std::int32_t>(), hn::ShiftRight<8>(hn::LoadU(Tag<std::uint32_t>(), words)));
  return hn::Mul(hn::ConvertTo(Tag<float>(), bits), set(0x1p-24f));
}

std::uint32_t id_of(const Samples& samples, std::int64_t i) {
  return static_cast<std::uint32_t>(samples.ids ? samples.ids[i] : samples.first + i);
}

/// Calls body(words, at, count) in parallel: the draws of `count` elements, the first of which is element `at` of all.
template <class Body>
void for_each_group(const RandomKey& key, const Samples& samples, std::int64_t per_sample, const Body& body) {
  const std::int64_t groups = (per_sample + kGroup - 1) / kGroup;
  parallel_for(samples.count * groups, 32, [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t words[kGroup];
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t sample = i / groups, group = i % groups, first = group * kGroup;
      draw_group(key, id_of(samples, sample), static_cast<std::uint32_t>(group * kCounters), words);
      body(words, sample * per_sample + first, std::min(kGroup, per_sample - first));
    }
  });
}

template <class T>
void dropout(const RandomKey& key, const Samples& samples, std::int64_t per_sample, double probability, const T* x,
             T* y, Mode mode) {
  const T factor = T{1} / (T{1} - static_cast<T>(probability));
  const auto threshold = static_cast<float>(probability);
  for_each_group(key, samples, per_sample, [=](const std::uint32_t* words, std::int64_t first, std::int64_t count) {
    // One draw for each element, whole vectors of which are there.
    HWY_ALIGN float draws[kGroup];
    for (std::int64_t j = 0; j < kGroup; j += kVecLanes<float>) hn::Store(uniforms(words + j), Tag<float>(), draws + j);
    const auto kept = [=, scale = set(factor)](auto v, auto draw) TAPECACHE_INLINE {
      // Not a product with 0: a dropped NaN or Inf is dropped.
      return hn::IfThenElseZero(hn::Ge(draw, set(static_cast<T>(threshold))), hn::Mul(v, scale));
    };
    if constexpr (sizeof(T) == sizeof(float)) {
      map_to(mode, count, y + first, kept, x + first, draws);
    } else {
      T wide[kGroup];
      std::copy_n(draws, kGroup, wide);
      map_to(mode, count, y + first, kept, x + first, wide);
    }
  });
}

template <class T>
void drop_path(const RandomKey& key, const Samples& samples, std::int64_t per_sample, double probability, const T* x,
               T* y, Mode mode) {
  const T factor = T{1} / (T{1} - static_cast<T>(probability));
  const auto threshold = static_cast<float>(probability);
  parallel_for(samples.count, block_for(per_sample), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const bool keep = RandomKey::uniform(key.draw(id_of(samples, i), 0)[0]) >= threshold;
      T* to = y + i * per_sample;
      if (keep) {
        map_to(
            mode, per_sample, to, [scale = set(factor)](auto v) TAPECACHE_INLINE { return hn::Mul(v, scale); },
            x + i * per_sample);
      } else if (mode == Mode::kWrite) {
        std::fill_n(to, per_sample, T{0});
      }
    }
  });
}

template <class T>
void sample_uniform(const RandomKey& key, const Samples& samples, std::int64_t per_sample, T* y) {
  for_each_group(key, samples, per_sample, [=](const std::uint32_t* words, std::int64_t at, std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j) y[at + j] = static_cast<T>(RandomKey::uniform(words[j]));
  });
}

template <class T>
constexpr DropoutKernels<T> kDropout{
    .dropout = dropout<T>,
    .drop_path = drop_path<T>,
    .sample_uniform = sample_uniform<T>,
};

}  // namespace

template <>
const DropoutKernels<float> Provided<DropoutKernels<float>>::kernels = kDropout<float>;
template <>
const DropoutKernels<double> Provided<DropoutKernels<double>>::kernels = kDropout<double>;

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
