#include <array>

#include "tapecache/ops/cpu/cpu_kernels.h"

namespace tapecache::kernels::cpu {

namespace {

constexpr std::int64_t kLanes = 16;              // Philox counters computed side by side
constexpr std::int64_t kGroup = 4 * kLanes;      // elements they serve
using Words = std::array<std::array<std::uint32_t, kLanes>, 4>;

/// RandomKey::draw for blocks first … first + kLanes - 1 of one sample, in a form that the compiler vectorises.
void draw_lanes(const RandomKey& key, std::uint32_t sample, std::uint32_t first, Words& out) {
  auto& [c0, c1, c2, c3] = out;
  for (std::uint32_t i = 0; i < kLanes; ++i) {
    c0[i] = first + i;
    c1[i] = sample;
    c2[i] = key.call;
    c3[i] = key.step;
  }
  auto k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      const std::uint64_t a = std::uint64_t{0xD2511F53} * c0[i], b = std::uint64_t{0xCD9E8D57} * c2[i];
      c0[i] = static_cast<std::uint32_t>(b >> 32) ^ c1[i] ^ k0;
      c2[i] = static_cast<std::uint32_t>(a >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<std::uint32_t>(b);
      c3[i] = static_cast<std::uint32_t>(a);
    }
  }
}

}  // namespace

template <class T>
void dropout(const RandomKey& key, std::int64_t first_sample, std::int64_t samples, std::int64_t per_sample,
             double probability, const T* x, T* y, Mode mode) {
  const T factor = T{1} / (T{1} - static_cast<T>(probability));
  const auto threshold = static_cast<float>(probability);
  const std::int64_t groups = (per_sample + kGroup - 1) / kGroup;
  parallel_for(samples * groups, 32, [=](std::int64_t begin, std::int64_t end) {
    Words words;
    std::array<T, kGroup> keep;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t sample = i / groups, group = i % groups, first = group * kGroup;
      draw_lanes(key, static_cast<std::uint32_t>(first_sample + sample), static_cast<std::uint32_t>(group * kLanes),
                 words);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        for (std::size_t word = 0; word < 4; ++word) {
          keep[4 * lane + word] = uniform(words[word][lane]) >= threshold ? factor : T{0};
        }
      }
      const std::int64_t count = std::min(kGroup, per_sample - first), at = sample * per_sample + first;
      for (std::int64_t j = 0; j < count; ++j) {
        // Not a product with 0: a dropped NaN or Inf is dropped.
        const T value = keep[static_cast<std::size_t>(j)] == T{0} ? T{0} : x[at + j] * factor;
        put(y[at + j], value, mode);
      }
    }
  });
}

template void dropout(const RandomKey&, std::int64_t, std::int64_t, std::int64_t, double, const float*, float*, Mode);
template void dropout(const RandomKey&, std::int64_t, std::int64_t, std::int64_t, double, const double*, double*,
                      Mode);

}  // namespace tapecache::kernels::cpu
