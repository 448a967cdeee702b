#pragma once

#include <cstdint>

#include "tapecache/ops/cuda/attention_head.cuh"
#include "tapecache/ops/cuda/tensor_cores.cuh"

/// The products of tiles that attention consists of, on tensor cores. A warp has 16 rows of a result, and walks over
/// tiles of what they meet, which all warps of the block share: the products of its rows with those of the tile
/// (scores), and sums of the tile's rows weighted by scores. Scores stay in registers, where they lie as the weights
/// are needed.
namespace tapecache::kernels::cuda {

constexpr int kOwnRows = 16, kWarps = kTile / kOwnRows;  // a warp's rows, and the warps of a block
constexpr unsigned kTensorThreads = kWarps * kWarp;

/// The first of the warp's rows within the tile of its block.
__device__ inline int own_rows() { return static_cast<int>(threadIdx.x / kWarp) * kOwnRows; }

/// Rows of a head in shared memory. Those that `load_matrix_x4` reads together are in different banks, as the pitch is
/// 4 words more than a multiple of 8.
template <int kWidth>
constexpr int kTilePitch = kWidth + 8;
template <int kRows, int kWidth>
constexpr int kTileSize = kRows* kTilePitch<kWidth>;

/// Queues the copy of the rows from `first` on; what is outside becomes 0.
template <int kRows, int kWidth, class Low>
__device__ void copy_tile(const Rows<const Low>& rows, int first, Low* to) {
  constexpr int kPieces = kWidth / 8;  // of 16 bytes, in a row
  constexpr int kRowsAtOnce = kWidth > 64 ? 8 : kWidth > 32 ? 16 : 32;
  static_assert(kRowsAtOnce * kPieces <= kTensorThreads && kRows % kRowsAtOnce == 0);
  const int row = static_cast<int>(threadIdx.x) / kPieces, column = static_cast<int>(threadIdx.x) % kPieces * 8;
  if (row >= kRowsAtOnce) return;
  const Low* from = rows.first + (first + row) * rows.stride + column;
  to += row * kTilePitch<kWidth> + column;
  const int left = column < rows.width ? static_cast<int>(rows.tokens) - first - row : 0;
#pragma unroll
  for (int i = 0; i < kRows; i += kRowsAtOnce) {
    copy_async<16>(to + i * kTilePitch<kWidth>, from, i < left);
    from += kRowsAtOnce * rows.stride;
  }
}

/// A warp's rows of a tile, as left operands. Wide ones are read again each time: they would fill the registers.
template <class Low, int kWidth>
class OwnRows {
 public:
  __device__ void load(const Low* tile) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    at_ = tile + (own_rows() + lane % 16) * kTilePitch<kWidth> + lane / 16 * 8;
    if constexpr (kKept) {
#pragma unroll
      for (int k = 0; k < kWidth / 16; ++k) load_matrix_x4(at_ + k * 16, kept_[k]);
    }
  }
  /// Columns 16 k … 16 k + 15.
  __device__ void get(int k, std::uint32_t (&a)[4]) const {
    if constexpr (kKept) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = kept_[k][i];
    } else {
      load_matrix_x4(at_ + k * 16, a);
    }
  }

 private:
  static constexpr bool kKept = kWidth <= 64;
  const Low* at_;
  std::uint32_t kept_[kKept ? kWidth / 16 : 1][4];
};

constexpr int kColumns = 32;                        // of a tile's rows, those that scores are taken with at a time
constexpr std::uint32_t kAllColumns = 0xffffffffu;  // a bit for each

/// Scores of the warp's rows with them: 8 columns a fragment.
using Scores32 = float[kColumns / 8][4];
/// Sums of the warp's rows.
template <int kWidth>
using RowSums = float[kWidth / 8][4];

/// scores = A Bᵀ of the warp's rows and kColumns rows of a tile.
template <int kWidth, class Low>
__device__ void multiply_rows(const OwnRows<Low, kWidth>& rows, const Low* tile, Scores32& scores) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const Low* at = tile + (lane / 16 * 8 + lane % 8) * kTilePitch<kWidth> + lane / 8 % 2 * 8;
#pragma unroll
  for (auto& fragment : scores) {
#pragma unroll
    for (float& score : fragment) score = 0;
  }
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    std::uint32_t a[4];
    rows.get(k, a);
#pragma unroll
    for (int i = 0; i < kColumns / 16; ++i) {
      std::uint32_t b[4];
      load_matrix_x4(at + i * 16 * kTilePitch<kWidth> + k * 16, b);
      mma_m16n8k16<Low>(scores[2 * i], a, b[0], b[1]);
      mma_m16n8k16<Low>(scores[2 * i + 1], a, b[2], b[3]);
    }
  }
}

/// sums += A B, of 16 columns of weights as a left operand and as many rows.
template <int kWidth, class Low>
__device__ void add_16_rows(const std::uint32_t (&a)[4], const Low* rows, RowSums<kWidth>& sums) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const Low* at = rows + lane % 16 * kTilePitch<kWidth> + lane / 16 * 8;
#pragma unroll
  for (int d = 0; d < kWidth / 16; ++d) {
    std::uint32_t b[4];
    load_matrix_x4_transposed(at + d * 16, b);
    mma_m16n8k16<Low>(sums[2 * d], a, b[0], b[1]);
    mma_m16n8k16<Low>(sums[2 * d + 1], a, b[2], b[3]);
  }
}

/// sums += W B, of scores as weights, rounded, and kColumns rows of a tile.
template <int kWidth, class Low>
__device__ void add_weighted_rows(const Scores32& weights, const Low* tile, RowSums<kWidth>& sums) {
#pragma unroll
  for (int i = 0; i < kColumns / 16; ++i) {
    const auto &left = weights[2 * i], &right = weights[2 * i + 1];
    const std::uint32_t a[4] = {pack<Low>(left[0], left[1]), pack<Low>(left[2], left[3]), pack<Low>(right[0], right[1]),
                                pack<Low>(right[2], right[3])};
    add_16_rows<kWidth>(a, tile + i * 16 * kTilePitch<kWidth>, sums);
  }
}

/// What the four lanes that share rows hold, combined.
template <class T, class Combine>
__device__ T combine_quad(T value, Combine combine) {
  value = combine(value, __shfl_xor_sync(kAllLanes, value, 1));
  return combine(value, __shfl_xor_sync(kAllLanes, value, 2));
}

/// Two neighbours, rounded.
template <class Low>
__device__ void put_pair(Low* to, float a, float b) {
  *reinterpret_cast<std::uint32_t*>(to) = pack<Low>(a, b);
}

/// Writes the warp's rows, times a factor for each of a lane's two. `room` is a tile in which the warp's rows are free:
/// by way of it 16 bytes are written at a time.
template <int kWidth, class Low>
__device__ void put_rows(const RowSums<kWidth>& sums, const float (&factors)[2], int first, const Rows<Low>& to,
                         Mode mode, Low* room) {
  const int begin = first + own_rows();
  __syncwarp();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = fragment_row() + 8 * r, token = begin + row;
    Low* shared = room + (own_rows() + row) * kTilePitch<kWidth>;
#pragma unroll
    for (int d = 0; d < kWidth / 8; ++d) {
      const int column = d * 8 + fragment_pair();
      float a = sums[d][2 * r] * factors[r], b = sums[d][2 * r + 1] * factors[r];
      if (mode == Mode::kAccumulate && token < to.tokens && column < to.width) {
        const FloatPair before = unpack<Low>(*reinterpret_cast<const std::uint32_t*>(&to.at(token, column)));
        a += before.low;
        b += before.high;
      }
      put_pair(shared + column, a, b);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x % kWarp); i < kOwnRows * kWidth / 8; i += kWarp) {
    const int row = i / (kWidth / 8), column = i % (kWidth / 8) * 8;
    if (begin + row >= to.tokens || column >= to.width) continue;
    *reinterpret_cast<uint4*>(&to.at(begin + row, column)) =
        *reinterpret_cast<const uint4*>(room + (own_rows() + row) * kTilePitch<kWidth> + column);
  }
}

}  // namespace tapecache::kernels::cuda
