#include "tapecache/ops/cuda/attention_tensor.h"

#include <cmath>

#include "tapecache/ops/cuda/attention_tensor.cuh"

// Attention on tensor cores (Dao 2023, "FlashAttention-2"): a block has a tile of queries, a warp 16 of them, and walks
// over the tiles of keys and values, of which the next is copied while one is worked on. Exponentials are of base 2.
namespace tapecache::kernels::cuda {

namespace {

/// The softmax so far of a lane's two rows: their maxima, and this lane's part of the sums of exponentials relative to
/// those.
struct RunningRows {
  float largest[2] = {kNone, kNone}, sum[2] = {};

  __device__ float shift(int r, float scale) const { return largest[r] == kNone ? 0 : largest[r] * scale; }

  /// Turns the scores of a tile into exponentials; the factors bring earlier sums to their maxima.
  __device__ void add(Scores32 (&scores)[kTile / kColumns], float scale, float (&factors)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float here = largest[r];
#pragma unroll
      for (const auto& part : scores) {
#pragma unroll
        for (const auto& fragment : part) here = fmaxf(here, fmaxf(fragment[2 * r], fragment[2 * r + 1]));
      }
      const float before = largest[r];
      largest[r] = combine_quad(here, [](float a, float b) { return fmaxf(a, b); });
      const float now = largest[r] == kNone ? 0 : largest[r];
      factors[r] = exp2_approximate((before - now) * scale);
      sum[r] *= factors[r];
#pragma unroll
      for (auto& part : scores) {
#pragma unroll
        for (auto& fragment : part) {
#pragma unroll
          for (int e = 2 * r; e < 2 * r + 2; ++e) {
            fragment[e] = exp2_approximate((fragment[e] - now) * scale);
            sum[r] += fragment[e];
          }
        }
      }
    }
  }
};

/// Keys and values of a tile, by a warp whose queries may attend to some of the keys; a lane's two to `bits`, with kAll
/// to all.
template <bool kAll, class Low, int kWidth>
__device__ void attend(const OwnRows<Low, kWidth>& queries, const Low* keys, const Low* values, float scale,
                       const bool (&wanted)[kTile / kColumns], const std::uint32_t (&bits)[2][kTile / kColumns],
                       RunningRows& rows, RowSums<kWidth>& sums) {
  Scores32 scores[kTile / kColumns];
#pragma unroll
  for (int i = 0; i < kTile / kColumns; ++i) {
    if (kAll || wanted[i]) multiply_rows(queries, keys + i * kTileSize<kColumns, kWidth>, scores[i]);
    if constexpr (!kAll) {
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (!meets(bits[e / 2][i], j, e % 2)) scores[i][j][e] = kNone;
        }
      }
    }
  }
  float factors[2];
  rows.add(scores, scale, factors);
#pragma unroll
  for (auto& fragment : sums) {
#pragma unroll
    for (int e = 0; e < 4; ++e) fragment[e] *= factors[e / 2];
  }
#pragma unroll
  for (int i = 0; i < kTile / kColumns; ++i) {
    if (kAll || wanted[i]) add_weighted_rows<kWidth>(scores[i], values + i * kTileSize<kColumns, kWidth>, sums);
  }
}

template <class Low, int kWidth>
__global__ void __launch_bounds__(kTensorThreads, kWidth <= 64 ? 3 : 2)
    tensor_attention_kernel(Attention layout, const Low* qkv, const bool* valid, Low* y, float* logsumexp) {
  constexpr int kSize = kTileSize<kTile, kWidth>;
  Low *of_queries = dynamic_shared<Low>(),
      *staged = of_queries + kSize;  // keys and values, twice where there are more tiles
  const int tokens = static_cast<int>(layout.tokens);
  const Piece piece(layout, valid);
  const Head& head = piece.head;
  const int first = piece.first, begin = static_cast<int>(head.first_key(first)),
            end = static_cast<int>(head.keys_of(first));
  const float scale = static_cast<float>(layout.scale), scale2 = scale * kLog2OfE;
  const auto keys = head.part(qkv, 1), values = head.part(qkv, 2);
  const int warp_query = first + own_rows(), query = warp_query + fragment_row();

  KeyFlags<kTile> flags;
  const auto stage = [&](int key) {
    Low* to = staged + key / kTile % 2 * 2 * kSize;
    copy_tile<kTile, kWidth>(keys, key, to);
    copy_tile<kTile, kWidth>(values, key, to + kSize);
    flags.load(head, key);
  };
  copy_tile<kTile, kWidth>(head.part(qkv, 0), first, of_queries);
  stage(begin);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  OwnRows<Low, kWidth> queries;
  queries.load(of_queries);
  RunningRows rows;
  RowSums<kWidth> sums = {};
  for (int key = begin; key < end; key += kTile) {
    std::uint32_t allowed[kTile / kColumns], bits[2][kTile / kColumns];
    bool wanted[kTile / kColumns], all = true, any = false;
    flags.get(allowed);
    if (key + kTile < end) stage(key + kTile);  // where all have read what they needed
    commit_copies();
#pragma unroll
    for (int i = 0; i < kTile / kColumns; ++i) {
      const auto keys_of = [&](int row, int last) {
        return keys_of_queries(layout, row, last, key + i * kColumns, allowed[i]);
      };
      const int last = warp_query + kOwnRows - 1;
      all = all && (keys_of(warp_query, warp_query) & keys_of(last, last)) == kAllColumns;
      wanted[i] = keys_of(warp_query, last) != 0;
      any = any || wanted[i];
      for (int r = 0; r < 2; ++r) bits[r][i] = keys_of(query + 8 * r, query + 8 * r);
    }
    const Low *of_keys = staged + key / kTile % 2 * 2 * kSize, *of_values = of_keys + kSize;
    if (warp_query < tokens && all) attend<true>(queries, of_keys, of_values, scale2, wanted, bits, rows, sums);
    else if (warp_query < tokens && any) attend<false>(queries, of_keys, of_values, scale2, wanted, bits, rows, sums);
    wait_for_copies<0>();
    __syncthreads();
  }
  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float total = combine_quad(rows.sum[r], Sum{});
    inverse[r] = total == 0 ? 0 : 1 / total;
    const int token = query + 8 * r;
    if (token < tokens && fragment_pair() == 0) logsumexp[head.row_of(token)] = rows.shift(r, scale) + std::log(total);
  }
  put_rows<kWidth>(sums, inverse, first, head.output(y), Mode::kWrite, of_queries);
}

}  // namespace

template <class Low>
bool tensor_attention(const Attention& layout, const Low* qkv, const bool* valid, Low* y, float* logsumexp) {
  if (!fits_tensor_cores(layout, qkv, y)) return false;
  with_tile_width(layout.width, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
    const std::size_t tiles = layout.tokens > kTile ? 5 : 3;
    launch(tensor_attention_kernel<Low, kWidth>, tensor_grid(layout, tiles * kTileSize<kTile, kWidth> * sizeof(Low)),
           layout, qkv, valid, y, logsumexp);
  });
  return true;
}

template bool tensor_attention(const Attention&, const BFloat16*, const bool*, BFloat16*, float*);
template bool tensor_attention(const Attention&, const Float16*, const bool*, Float16*, float*);

}  // namespace tapecache::kernels::cuda
