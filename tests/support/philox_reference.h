#pragma once

#include <cstdint>
#include <utility>

namespace tapecache::testing {

/// Philox4x32-10 written from the paper (Salmon et al. 2011, §3), word by word, with 64-bit sums split by hand.
struct PhiloxReference {
  std::uint32_t counter[4];
  std::uint32_t key[2];

  static std::pair<std::uint32_t, std::uint32_t> high_low(std::uint32_t a, std::uint32_t b) {
    const std::uint64_t product = static_cast<std::uint64_t>(a) * b;
    return {static_cast<std::uint32_t>(product / 4294967296u), static_cast<std::uint32_t>(product % 4294967296u)};
  }

  /// Word `index` (0 … 3) of the output.
  std::uint32_t word(int index) const {
    std::uint32_t l0 = counter[0], r0 = counter[1], l1 = counter[2], r1 = counter[3];
    for (std::uint32_t round = 0; round < 10; ++round) {
      const auto [high0, low0] = high_low(l0, 3528531795u);
      const auto [high1, low1] = high_low(l1, 3449720151u);
      const std::uint32_t key0 = key[0] + round * 2654435769u, key1 = key[1] + round * 3144134277u;
      l0 = high1 ^ r0 ^ key0;
      l1 = high0 ^ r1 ^ key1;
      r0 = low1;
      r1 = low0;
    }
    const std::uint32_t words[4] = {l0, r0, l1, r1};
    return words[index];
  }
};

}  // namespace tapecache::testing
