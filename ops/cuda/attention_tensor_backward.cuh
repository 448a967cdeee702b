#pragma once

#include <cstdint>

#include "tapecache/ops/cuda/attention_tensor.cuh"

/// What the kernels of attention's derivative on tensor cores consist of.
namespace tapecache::kernels::cuda {

/// What a query's weights are computed from: logsumexp in units of log 2, infinite where there is nothing to attend to,
/// and Σ dY Y.
struct QuerySums {
  float normalizer, dot;
};

/// The warp's 16 rows of y, of which two lanes have one each.
template <class Low, int kWidth>
class OutputRows {
 public:
  /// Begins to read them.
  __device__ void load(const Rows<const Low>& y, int first) {
#pragma unroll
    for (int i = 0; i < kWidth / 16; ++i) {
      const bool present = first + row_ < y.tokens && column_ + i * 8 < y.width;
      pieces_[i] = present ? *reinterpret_cast<const uint4*>(&y.at(first + row_, column_ + i * 8)) : uint4{0, 0, 0, 0};
    }
  }
  /// Σ dY Y of a lane's rows of fragments.
  __device__ void multiply(const Low* gradients, float (&dots)[2]) const {
    const auto* there = reinterpret_cast<const uint4*>(gradients + row_ * kTilePitch<kWidth> + column_);
    float sum = 0;
    const auto add = [&](std::uint32_t a, std::uint32_t b) {
      const FloatPair left = unpack<Low>(a), right = unpack<Low>(b);
      sum += left.low * right.low + left.high * right.high;
    };
#pragma unroll
    for (int i = 0; i < kWidth / 16; ++i) {
      const uint4 a = pieces_[i], b = there[i];
      add(a.x, b.x);
      add(a.y, b.y);
      add(a.z, b.z);
      add(a.w, b.w);
    }
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
#pragma unroll
    for (int r = 0; r < 2; ++r) dots[r] = __shfl_sync(kAllLanes, sum, (fragment_row() + 8 * r) * 2);
  }

 private:
  int row_ = own_rows() + static_cast<int>(threadIdx.x % kWarp) / 2;
  int column_ = static_cast<int>(threadIdx.x % 2) * (kWidth / 2);
  uint4 pieces_[kWidth / 16];
};

/// Scores of what may not meet become -Inf: their weights are then 0.
__device__ inline void mask(const std::uint32_t (&bits)[2], Scores32& scores) {
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (!meets(bits[e / 2], j, e % 2)) scores[j][e] = kNone;
    }
  }
}

/// Turns a score and the dY Vᵀ that belongs to it into P and dS / scale.
__device__ inline void take_weight(const QuerySums& query, float scale, float& score, float& slope) {
  score = exp2_approximate(score * scale - query.normalizer);
  slope = score * (slope - query.dot);
}

/// The weights of a tile's queries with its keys, in shared memory, for products of their transposes.
template <class Low>
struct Weights {
  Low* first;

  /// Those of the warp's queries with kColumns keys.
  __device__ void put(const Scores32& weights, int column) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      Low* row = first + (own_rows() + fragment_row() + 8 * r) * kTilePitch<kTile> + column + fragment_pair();
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) put_pair(row + j * 8, weights[j][2 * r], weights[j][2 * r + 1]);
    }
  }
  /// Wᵀ of the warp's keys with the 16 queries from `query` on, as a left operand.
  __device__ void get_transposed(int query, std::uint32_t (&a)[4]) const {
    const int lane = static_cast<int>(threadIdx.x % kWarp), row = query + lane / 16 * 8 + lane % 8;
    load_matrix_x4_transposed(first + row * kTilePitch<kTile> + own_rows() + lane / 8 % 2 * 8, a);
  }
};

}  // namespace tapecache::kernels::cuda
