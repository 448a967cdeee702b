#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

constexpr std::int64_t kLanes = 16;          // Philox counters computed side by side
constexpr std::int64_t kGroup = 4 * kLanes;  // elements they serve

/// RandomKey::draw for blocks first … first + kLanes - 1 of one sample, element by element. One word a lane in 64 bits
/// is what the compiler vectorises: the products need them whole.
void draw_group(const RandomKey& key, std::uint32_t sample, std::uint32_t first, std::uint32_t* words) {
  constexpr std::uint64_t kLow = 0xFFFFFFFF;
  std::uint64_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (std::uint32_t i = 0; i < kLanes; ++i) {
    c0[i] = first + i;
    c1[i] = sample;
    c2[i] = key.call;
    c3[i] = key.step;
  }
  auto k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
#pragma omp simd
    for (std::int64_t i = 0; i < kLanes; ++i) {
      const std::uint64_t a = 0xD2511F53 * c0[i], b = 0xCD9E8D57 * c2[i];
      c0[i] = (b >> 32) ^ c1[i] ^ k0;
      c2[i] = (a >> 32) ^ c3[i] ^ k1;
      c1[i] = b & kLow;
      c3[i] = a & kLow;
    }
  }
  for (std::int64_t i = 0; i < kLanes; ++i) {
    words[4 * i] = static_cast<std::uint32_t>(c0[i]);
    words[4 * i + 1] = static_cast<std::uint32_t>(c1[i]);
    words[4 * i + 2] = static_cast<std::uint32_t>(c2[i]);
    words[4 * i + 3] = static_cast<std::uint32_t>(c3[i]);
  }
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
      draw_group(key, id_of(samples, sample), static_cast<std::uint32_t>(group * kLanes), words);
      body(words, sample * per_sample + first, std::min(kGroup, per_sample - first));
    }
  });
}

}  // namespace

template <class T>
void dropout(const RandomKey& key, const Samples& samples, std::int64_t per_sample, double probability, const T* x,
             T* y, Mode mode) {
  const T factor = T{1} / (T{1} - static_cast<T>(probability));
  const auto threshold = static_cast<float>(probability);
  for_each_group(key, samples, per_sample, [=](const std::uint32_t* words, std::int64_t at, std::int64_t count) {
    const T* from = x + at;
    T* to = y + at;
    T kept[kGroup];
    // Not a product with 0: a dropped NaN or Inf is dropped.
    for (std::int64_t j = 0; j < count; ++j) {
      const T value = from[j] * factor;
      kept[j] = uniform(words[j]) >= threshold ? value : T{0};
    }
    if (mode == Mode::kWrite) {
      for (std::int64_t j = 0; j < count; ++j) to[j] = kept[j];
    } else {
      for (std::int64_t j = 0; j < count; ++j) to[j] += kept[j];
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
      const bool keep = uniform(key.draw(id_of(samples, i), 0)[0]) >= threshold;
      const T* from = x + i * per_sample;
      T* to = y + i * per_sample;
      if (keep) {
        for (std::int64_t j = 0; j < per_sample; ++j) put(to[j], from[j] * factor, mode);
      } else if (mode == Mode::kWrite) {
        std::fill_n(to, per_sample, T{0});
      }
    }
  });
}

template <class T>
void sample_uniform(const RandomKey& key, const Samples& samples, std::int64_t per_sample, T* y) {
  for_each_group(key, samples, per_sample, [=](const std::uint32_t* words, std::int64_t at, std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j) y[at + j] = static_cast<T>(uniform(words[j]));
  });
}

template void dropout(const RandomKey&, const Samples&, std::int64_t, double, const float*, float*, Mode);
template void dropout(const RandomKey&, const Samples&, std::int64_t, double, const double*, double*, Mode);
template void drop_path(const RandomKey&, const Samples&, std::int64_t, double, const float*, float*, Mode);
template void drop_path(const RandomKey&, const Samples&, std::int64_t, double, const double*, double*, Mode);
template void sample_uniform(const RandomKey&, const Samples&, std::int64_t, float*);
template void sample_uniform(const RandomKey&, const Samples&, std::int64_t, double*);

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
