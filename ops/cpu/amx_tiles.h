#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

/// Eight tiles of 16 rows of 64 bytes: f32 sums, or bf16 factors. Of the right factor a row holds the pairs of terms of
/// 16 columns, of the left one the 32 terms of a row.
namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

#if defined(__x86_64__)

/// What LDTILECFG takes: all tiles whole.
struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[8] = {64, 64, 64, 64, 64, 64, 64, 64}, more_row_bytes[8] = {};
  std::uint8_t rows[8] = {16, 16, 16, 16, 16, 16, 16, 16}, more_rows[8] = {};
};
static_assert(sizeof(TileConfiguration) == 64);

/// The processor's own. They are this thread's while the object lives, and as at the start of a program afterwards: by
/// the calling convention tiles belong to no one across a call, so that there is nothing of the host program to put
/// back.
class AmxTiles {
 public:
  AmxTiles() {
    static constexpr TileConfiguration kWhole;
    asm volatile("ldtilecfg %0" : : "m"(kWhole));
  }
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  // Written out, since GCC's intrinsics do not say that they read memory. Strides are in bytes.
  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void load(const void* from, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void store(void* to, std::int64_t stride) const {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kSum, int kLeft, int kRight>
  void add_product() {
    static_assert(kSum != kLeft && kLeft != kRight && kSum != kRight);
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
  }
};

#endif

/// The same in plain C++, as Intel's manual defines TDPBF16PS: the first terms of the pairs are summed by fused
/// multiply-adds from 0 on, the second ones likewise, then both sums are added, and that to what was there; every step
/// rounds to nearest even and takes subnormal numbers, in and out, for 0. The manual leaves open what NaN comes out of
/// several, and whether a result counts as subnormal before or after it is rounded: this takes it after.
class ModelTiles {
 public:
  template <int kTile>
  void zero() {
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
  }
  template <int kTile>
  void load(const void* from, std::int64_t stride) {
    for (int i = 0; i < 16; ++i) std::memcpy(tiles_[kTile][i], static_cast<const char*>(from) + i * stride, 64);
  }
  template <int kTile>
  void store(void* to, std::int64_t stride) const {
    for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + i * stride, tiles_[kTile][i], 64);
  }
  template <int kSum, int kLeft, int kRight>
  void add_product() {
    for (int m = 0; m < 16; ++m) {
      float sums[2][16] = {};
      for (int k = 0; k < 16; ++k) {
        for (int half = 0; half < 2; ++half) {
          const float left = term(tiles_[kLeft][m][k], half);
          for (int n = 0; n < 16; ++n) {
            float& sum = sums[half][n];
            sum = flushed(std::fma(left, term(tiles_[kRight][k][n], half), sum));
          }
        }
      }
      for (int n = 0; n < 16; ++n) {
        std::uint32_t& word = tiles_[kSum][m][n];
        word = std::bit_cast<std::uint32_t>(
            flushed(flushed(std::bit_cast<float>(word)) + flushed(sums[0][n] + sums[1][n])));
      }
    }
  }

 private:
  static float flushed(float x) { return std::abs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
  static float term(std::uint32_t pair, int half) {
    return flushed(std::bit_cast<float>(half == 0 ? pair << 16 : pair & 0xffff0000u));
  }

  std::uint32_t tiles_[8][16][16];
};

#if !defined(__x86_64__)
using AmxTiles = ModelTiles;  // never asked for
#endif

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
