#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu {

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

}  // namespace

template <class T>
void dropout(const RandomKey& key, const Samples& samples, std::int64_t per_sample, double probability, const T* x,
             T* y, Mode mode) {
  const T factor = T{1} / (T{1} - static_cast<T>(probability));
  const auto threshold = static_cast<float>(probability);
  const std::int64_t groups = (per_sample + kGroup - 1) / kGroup;
  parallel_for(samples.count * groups, 32, [=](std::int64_t begin, std::int64_t end) {
    std::uint32_t words[kGroup];
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t sample = i / groups, group = i % groups, first = group * kGroup;
      const std::int64_t id = samples.ids ? samples.ids[sample] : samples.first + sample;
      draw_group(key, static_cast<std::uint32_t>(id), static_cast<std::uint32_t>(group * kLanes), words);
      const std::int64_t count = std::min(kGroup, per_sample - first), at = sample * per_sample + first;
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
    }
  });
}

template void dropout(const RandomKey&, const Samples&, std::int64_t, double, const float*, float*, Mode);
template void dropout(const RandomKey&, const Samples&, std::int64_t, double, const double*, double*, Mode);

}  // namespace tapecache::kernels::cpu
