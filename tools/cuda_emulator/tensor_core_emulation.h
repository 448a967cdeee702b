#pragma once

// A stand-in for the instructions of tensor cores that `tensor_cores.cuh` describes, which keeps their distribution of
// elements over lanes. Here lanes show one another what they hold.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "cuda_runtime.h"

namespace emulation {

/// What each lane of this warp shows. All 32 must call it, and `hide_warp` before what they showed goes out of scope.
const void* const* show_warp(const void* own);
void hide_warp();

/// 16 bytes in shared memory, at a multiple of 16: a fault where they are not.
const std::uint16_t* matrix_row(const void*);

/// The copy is made when it is waited for; until then the place holds NaN.
void queue_copy(void* to, const void* from, std::size_t bytes, bool present);
void commit_copies();
void wait_for_copies(std::size_t groups_left);

template <class Low>
float element(std::uint32_t pair, unsigned which) {
  return static_cast<float>(std::bit_cast<Low>(static_cast<std::uint16_t>(pair >> 16 * which)));
}

inline void load_matrices(const void* row, bool transposed, std::uint32_t (&to)[4]) {
  const void* const* rows = show_warp(row);
  const unsigned i = lane() / 4, pair = lane() % 4 * 2;
  for (unsigned m = 0; m < 4; ++m) {
    const auto at = [&](unsigned r, unsigned c) -> std::uint32_t { return matrix_row(rows[m * 8 + r])[c]; };
    to[m] = transposed ? at(pair, i) | at(pair + 1, i) << 16 : at(i, pair) | at(i, pair + 1) << 16;
  }
  hide_warp();
}

}  // namespace emulation

namespace tapecache::kernels::cuda {

struct FloatPair {
  float low, high;
};

template <class Low>
void mma_m16n8k16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  struct Shown {
    std::uint32_t a[4], b[2];
  };
  const Shown own{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const void* const* shown = emulation::show_warp(&own);
  const auto lane_of = [&](unsigned row, unsigned k) -> const Shown& {
    return *static_cast<const Shown*>(shown[row * 4 + k % 8 / 2]);
  };
  const unsigned row = emulation::lane() / 4, pair = emulation::lane() % 4 * 2;
  double sums[4] = {c[0], c[1], c[2], c[3]};
  for (unsigned k = 0; k < 16; ++k) {
    const Shown& left = lane_of(row, k);
    const double upper = emulation::element<Low>(left.a[k / 8 * 2], k % 2);
    const double lower = emulation::element<Low>(left.a[k / 8 * 2 + 1], k % 2);
    for (unsigned n = 0; n < 2; ++n) {
      const double right = emulation::element<Low>(lane_of(pair + n, k).b[k / 8], k % 2);
      sums[n] += upper * right;
      sums[2 + n] += lower * right;
    }
  }
  emulation::hide_warp();
  for (unsigned i = 0; i < 4; ++i) c[i] = static_cast<float>(sums[i]);
}

inline void load_matrix_x4(const void* row, std::uint32_t (&to)[4]) { emulation::load_matrices(row, false, to); }
inline void load_matrix_x4_transposed(const void* row, std::uint32_t (&to)[4]) {
  emulation::load_matrices(row, true, to);
}

template <class Low>
std::uint32_t pack(float low, float high) {
  return Low(low).bits | static_cast<std::uint32_t>(Low(high).bits) << 16;
}
template <class Low>
FloatPair unpack(std::uint32_t pair) {
  return {emulation::element<Low>(pair, 0), emulation::element<Low>(pair, 1)};
}

template <int kBytes>
void copy_async(void* to, const void* from, bool present) {
  static_assert(kBytes == 8 || kBytes == 16);
  emulation::queue_copy(to, from, kBytes, present);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int kLeft>
void wait_for_copies() {
  emulation::wait_for_copies(kLeft);
}

inline float exp2_approximate(float x) {
  const float y = std::exp2(x);
  return y < std::numeric_limits<float>::min() ? 0 : y;
}

}  // namespace tapecache::kernels::cuda
