#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/tensor_tiles.cuh"

/// What attention on tensor cores has in common forward and backward: which shapes it takes, and who may attend to
/// whom.
namespace tapecache::kernels::cuda {

constexpr float kLog2OfE = 1.4426950408889634f, kNone = -std::numeric_limits<float>::infinity();

template <class... Arrays>
bool fits_tensor_cores(const Attention& layout, const Arrays*... arrays) {
  constexpr std::int64_t kMaxTokens = 1 << 30, kMaxTensorBlocks = 0x7fffffff;
  return layout.width > 0 && layout.width % 16 == 0 && layout.width <= 128 && layout.tokens <= kMaxTokens &&
         layout.batch * layout.heads * divide_up(layout.tokens, kTile) <= kMaxTensorBlocks &&
         ((reinterpret_cast<std::uintptr_t>(arrays) % 16 == 0) && ...);
}

/// Calls `f` with the width in columns that kernels are made for.
template <class F>
void with_tile_width(std::int64_t width, const F& f) {
  if (width <= 32) f(std::integral_constant<int, 32>{});
  else if (width <= 64) f(std::integral_constant<int, 64>{});
  else if (width <= 96) f(std::integral_constant<int, 96>{});
  else f(std::integral_constant<int, 128>{});
}

/// The piece of work of a block: a tile of a head, or of a group of heads, of which it then has the first.
struct Piece {
  Head head;
  int first;

  __device__ Piece(const Attention& layout, const bool* valid, unsigned group = 1)
      : Piece(layout, valid, group, tiles_of(layout)) {}

 private:
  __device__ static unsigned tiles_of(const Attention& layout) {
    return (static_cast<unsigned>(layout.tokens) + kTile - 1) / kTile;
  }
  // In 32 bits: there division is a few instructions.
  __device__ Piece(const Attention& layout, const bool* valid, unsigned group, unsigned tiles)
      : head(layout, valid, blockIdx.x / tiles / (static_cast<unsigned>(layout.heads) / group),
             blockIdx.x / tiles % (static_cast<unsigned>(layout.heads) / group) * group),
        first(static_cast<int>(blockIdx.x % tiles) * kTile) {}
};

/// A block for each tile of each head, or of each group of heads.
inline Grid tensor_grid(const Attention& layout, std::size_t shared_bytes, std::int64_t group = 1) {
  return {static_cast<unsigned>(layout.batch * (layout.heads / group) * divide_up(layout.tokens, kTile)),
          kTensorThreads, shared_bytes};
}

/// Which keys of a tile of kKeys may be attended to by some query, as bits of kColumns. They are read ahead.
template <int kKeys>
class KeyFlags {
 public:
  __device__ void load(const Head& head, int first) {
#pragma unroll
    for (int i = 0; i < kKeys / kColumns; ++i) {
      const int key = first + i * kColumns + static_cast<int>(threadIdx.x % kWarp);
      flags_[i] = key < head.layout.tokens && (!head.valid || head.valid[key]);
    }
  }
  /// All lanes of the warp must call it.
  __device__ void get(std::uint32_t (&bits)[kKeys / kColumns]) const {
#pragma unroll
    for (int i = 0; i < kKeys / kColumns; ++i) bits[i] = __ballot_sync(kAllLanes, flags_[i]);
  }

 private:
  bool flags_[kKeys / kColumns];
};

/// A bit for each of the first n columns.
__device__ inline std::uint32_t first_bits(int n) { return n <= 0 ? 0 : n >= kColumns ? kAllColumns : (1u << n) - 1; }

/// Of the keys from `first` on, those that some query from `query` to `last` may attend to.
__device__ inline std::uint32_t keys_of_queries(const Attention& layout, int query, int last, int first,
                                                std::uint32_t keys) {
  if (layout.causal) keys &= first_bits(last + 1 - first);
  if (layout.window < layout.tokens) {
    const int window = static_cast<int>(layout.window);
    keys &= first_bits(last + window + 1 - first) & ~first_bits(query - window - first);
  }
  return keys;
}

/// Whether a lane's row may meet column 8 j + pair + e.
__device__ inline bool meets(std::uint32_t bits, int j, int e) { return bits >> fragment_pair() >> (j * 8 + e) & 1; }

}  // namespace tapecache::kernels::cuda
