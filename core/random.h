#pragma once

#include <array>
#include <cstdint>

#include "tapecache/core/error.h"
#include "tapecache/core/number.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// All that a random draw depends on, apart from the sample and the element within it. Equal keys give equal draws,
/// however the batch is split and whatever ran before.
struct RandomKey {
  std::uint64_t seed = 0;
  detail::KernelNumber<std::uint32_t> step = 0;
  std::uint32_t call = 0;  ///< number of the stochastic op call within the step

  bool operator==(const RandomKey&) const = default;

  /// The key with its step as it is now, on the device that holds it.
  constexpr RandomKey now() const { return {seed, step.now(), call}; }

  /// Four words: those of elements 4·block … 4·block + 3 of the given sample.
  constexpr std::array<std::uint32_t, 4> draw(std::uint32_t sample, std::uint32_t block) const {
    return philox4x32({block, sample, call, step.value},
                      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  }

  /// A word of a draw as a number uniform in [0, 1) with 24 bits, exact in f32.
  static constexpr float uniform(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

  /// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four 32-bit words from a
  /// 128-bit counter and a 64-bit key, with no state in between.
  static constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                           std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
      const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
      counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
                 static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
      key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
    }
    return counter;
  }
};

/// The position of this thread in its random stream: which step it is in, how many stochastic calls the step has
/// made, and which samples of the batch the running code sees.
struct RandomState {
  RandomKey key;
  std::int64_t first_sample = 0;  ///< global index of the first sample in view
  std::int64_t samples = 0;       ///< samples in view; 0: each op takes the size of its axis 0
  /// i64 [samples] on the CPU: the global index of each sample in view, where they do not follow one another; then
  /// first_sample says nothing. Else undefined.
  Tensor sample_ids = {};

  bool operator==(const RandomState&) const;
};

/// The state the next stochastic op of this thread draws from (`ForwardContext::random`). Set seed and step before a
/// training step; restore a saved copy to replay.
RandomState& random_state();

/// Starts a step: draws depend on (seed, step) from here on, and the call number is 0. Within a `CapturedStep`, draws
/// on its device have the step number that its replay was given.
void begin_random_step(std::uint64_t seed, std::uint32_t step);

/// Returns the state from which an op over `leading` rows draws, with the number of samples that it covers, and
/// advances the call number for the next op. Throws ShapeError naming `op` if the rows are not a multiple of the
/// samples in view.
RandomState next_random_draw(const char* op, std::int64_t leading);

}  // namespace tapecache
