#include "tapecache/ops/cuda/attention_tensor.h"
#include "tapecache/ops/cuda/attention_tensor_backward.cuh"
#include "tapecache/ops/cuda/scratch.h"

// The derivative of attention on tensor cores. The gradient of queries is taken by tiles of queries, those of keys and
// values by tiles of keys, whose scores are Sᵀ: so that each warp has rows of the results to itself, and the scores
// that it computes lie in its registers as the products with them need it. Scores are computed in both; but where one
// tile has all tokens, its block takes the other gradients too, from the same weights.
//
// P = exp(S - logsumexp); dV = Pᵀ dY; dS = P (dY Vᵀ - Σ dY Y); dQ = scale dS K; dK = scale dSᵀ Q
namespace tapecache::kernels::cuda {

namespace {

/// Tokens of a tile that is walked over: as many as leave room for two blocks on a multiprocessor.
template <int kWidth>
constexpr int kWalk = kWidth <= 64 ? 64 : 32;

/// Elements in shared memory: two tiles of a block's rows, and twice two that are walked over; or four tiles, and the
/// weights.
template <int kWidth>
constexpr int kBackwardSize = 2 * kTileSize<kTile, kWidth> + 4 * kTileSize<kWalk<kWidth>, kWidth>;
template <int kWidth>
constexpr int kAloneSize = 4 * kTileSize<kTile, kWidth> + 2 * kTileSize<kTile, kTile>;

template <bool kAlone, class Low, int kWidth>
__global__ void __launch_bounds__(kTensorThreads)
    tensor_attention_query_gradient_kernel(Attention layout, const Low* qkv, const bool* valid, const Low* y,
                                           const float* logsumexp, const Low* dy, QuerySums* query_sums, Low* dqkv,
                                           Mode mode) {
  constexpr int kSize = kTileSize<kTile, kWidth>, kKeys = kWalk<kWidth>, kKeysSize = kTileSize<kKeys, kWidth>;
  Low *of_queries = dynamic_shared<Low>(), *of_gradients = of_queries + kSize, *staged = of_gradients + kSize;
  const int tokens = static_cast<int>(layout.tokens);
  const Piece piece(layout, valid);
  const Head& head = piece.head;
  const int first = piece.first, begin = static_cast<int>(head.first_key(first)),
            end = static_cast<int>(head.keys_of(first));
  const float scale = static_cast<float>(layout.scale), scale2 = scale * kLog2OfE;
  const auto keys = head.part(qkv, 1), values = head.part(qkv, 2);
  const int warp_query = first + own_rows(), query = warp_query + fragment_row();

  KeyFlags<kKeys> flags;
  const auto stage = [&](int key) {
    Low* to = staged + key / kKeys % 2 * 2 * kKeysSize;
    copy_tile<kKeys, kWidth>(keys, key, to);
    copy_tile<kKeys, kWidth>(values, key, to + kKeysSize);
    flags.load(head, key);
  };
  const Weights<Low> all_weights{of_gradients + 3 * kSize}, all_slopes{all_weights.first + kTileSize<kTile, kTile>};
  copy_tile<kTile, kWidth>(head.part(qkv, 0), first, of_queries);
  copy_tile<kTile, kWidth>(head.output(dy), first, of_gradients);
  stage(begin);
  commit_copies();
  OutputRows<Low, kWidth> outputs;
  outputs.load(head.output(y), first);
  float normalizers[2], dots[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) normalizers[r] = query + 8 * r < tokens ? logsumexp[head.row_of(query + 8 * r)] : kNone;
  wait_for_copies<0>();
  __syncthreads();
  OwnRows<Low, kWidth> queries, gradients;
  queries.load(of_queries);
  gradients.load(of_gradients);
  outputs.multiply(of_gradients, dots);
  QuerySums of_rows[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    of_rows[r] = {normalizers[r] == kNone ? -kNone : normalizers[r] * kLog2OfE, dots[r]};
    if (!kAlone && query + 8 * r < tokens && fragment_pair() == 0) query_sums[head.row_of(query + 8 * r)] = of_rows[r];
  }
  RowSums<kWidth> sums = {};
  for (int key = begin; key < end; key += kKeys) {
    std::uint32_t allowed[kKeys / kColumns];
    flags.get(allowed);
    if (key + kKeys < end) stage(key + kKeys);  // where all have read what they needed
    commit_copies();
#pragma unroll
    for (int i = 0; i < kKeys / kColumns; ++i) {
      const auto keys_of = [&](int row, int last) {
        return keys_of_queries(layout, row, last, key + i * kColumns, allowed[i]);
      };
      const int last = warp_query + kOwnRows - 1;
      if (warp_query >= tokens || keys_of(warp_query, last) == 0) {
        if constexpr (kAlone) {
          all_weights.put({}, key + i * kColumns);
          all_slopes.put({}, key + i * kColumns);
        }
        continue;
      }
      const Low* of_keys = staged + key / kKeys % 2 * 2 * kKeysSize + i * kTileSize<kColumns, kWidth>;
      const Low* of_values = of_keys + kKeysSize;
      Scores32 weights, slopes;
      multiply_rows(queries, of_keys, weights);
      multiply_rows(gradients, of_values, slopes);
      if ((keys_of(warp_query, warp_query) & keys_of(last, last)) != kAllColumns) {
        mask({keys_of(query, query), keys_of(query + 8, query + 8)}, weights);
      }
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) take_weight(of_rows[e / 2], scale2, weights[j][e], slopes[j][e]);
      }
      add_weighted_rows<kWidth>(slopes, of_keys, sums);
      if constexpr (kAlone) {
        all_weights.put(weights, key + i * kColumns);
        all_slopes.put(slopes, key + i * kColumns);
      }
    }
    wait_for_copies<0>();
    __syncthreads();
  }
  put_rows<kWidth>(sums, {scale, scale}, first, head.part(dqkv, 0), mode, staged);
  if constexpr (kAlone) {
    if (own_rows() >= tokens) return;
    RowSums<kWidth> key_sums = {}, value_sums = {};
    for (int row = 0; row < tokens; row += 16) {
      std::uint32_t a[4];
      all_weights.get_transposed(row, a);
      add_16_rows<kWidth>(a, of_gradients + row * kTilePitch<kWidth>, value_sums);
      all_slopes.get_transposed(row, a);
      add_16_rows<kWidth>(a, of_queries + row * kTilePitch<kWidth>, key_sums);
    }
    put_rows<kWidth>(key_sums, {scale, scale}, 0, head.part(dqkv, 1), mode, staged);
    put_rows<kWidth>(value_sums, {1, 1}, 0, head.part(dqkv, 2), mode, staged);
  }
}

/// The queries, from `first` on, that may attend to some key from `key` to `last` that may be attended to at all.
__device__ inline std::uint32_t queries_of_keys(const Attention& layout, int key, int last, int first) {
  std::uint32_t there = first_bits(static_cast<int>(layout.tokens) - first);
  if (layout.causal) there &= ~first_bits(key - first);
  if (layout.window < layout.tokens) {
    const int window = static_cast<int>(layout.window);
    there &= first_bits(last + window + 1 - first) & ~first_bits(key - window - first);
  }
  return there;
}

template <class Low, int kWidth>
__global__ void __launch_bounds__(kTensorThreads)
    tensor_attention_key_gradient_kernel(Attention layout, const Low* qkv, const bool* valid,
                                         const QuerySums* query_sums, const Low* dy, Low* dqkv, Mode mode) {
  constexpr int kSize = kTileSize<kTile, kWidth>, kQueries = kWalk<kWidth>, kQueriesSize = kTileSize<kQueries, kWidth>;
  Low *of_keys = dynamic_shared<Low>(), *of_values = of_keys + kSize, *staged = of_values + kSize;
  auto* staged_sums = reinterpret_cast<QuerySums*>(staged + 4 * kQueriesSize);
  const int tokens = static_cast<int>(layout.tokens), group = static_cast<int>(layout.group);
  const Piece piece(layout, valid, static_cast<unsigned>(group));
  const Head& head = piece.head;
  const int first = piece.first;
  const float scale = static_cast<float>(layout.scale), scale2 = scale * kLog2OfE;
  const int warp_key = first + own_rows(), key = warp_key + fragment_row();
  const auto attended = [&](int k) { return k < tokens && (!valid || head.valid[k]); };
  const bool own[2] = {attended(key), attended(key + 8)};
  const bool any = __any_sync(kAllLanes, own[0] || own[1]), every = __all_sync(kAllLanes, own[0] && own[1]);

  const auto stage = [&](const Head& member, int query) {
    const int which = query / kQueries % 2;
    Low* to = staged + which * 2 * kQueriesSize;
    copy_tile<kQueries, kWidth>(member.part(qkv, 0), query, to);
    copy_tile<kQueries, kWidth>(member.output(dy), query, to + kQueriesSize);
    const int i = static_cast<int>(threadIdx.x);
    if (i < kQueries) {
      const bool present = query + i < tokens;
      copy_async<8>(staged_sums + which * kQueries + i, query_sums + member.row_of(present ? query + i : 0), present);
    }
  };
  copy_tile<kTile, kWidth>(head.part(qkv, 1), first, of_keys);
  copy_tile<kTile, kWidth>(head.part(qkv, 2), first, of_values);
  const int begin = static_cast<int>(head.first_query(first)), end = static_cast<int>(head.queries_of(first));
  OwnRows<Low, kWidth> keys, values;
  RowSums<kWidth> key_sums = {}, value_sums = {};
  // All heads that share the keys, one after another.
  for (int i_member = 0; i_member < group; ++i_member) {
    const Head member(layout, valid, head.sample, head.head + i_member);
    stage(member, begin);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    if (i_member == 0) {
      keys.load(of_keys);
      values.load(of_values);
    }
    for (int query = begin; query < end; query += kQueries) {
      if (query + kQueries < end) stage(member, query + kQueries);  // where all have read what they needed
      commit_copies();
      const int which = query / kQueries % 2;
#pragma unroll
      for (int i = 0; i < kQueries / kColumns; ++i) {
        const auto queries_of = [&](int row, int last) {
          return queries_of_keys(layout, row, last, query + i * kColumns);
        };
        const int last = warp_key + kOwnRows - 1;
        if (!any || queries_of(warp_key, last) == 0) continue;
        const Low* part = staged + which * 2 * kQueriesSize + i * kTileSize<kColumns, kWidth>;
        const Low* of_part = part + kQueriesSize;
        const QuerySums* of_queries = staged_sums + which * kQueries + i * kColumns;
        Scores32 weights, slopes;
        multiply_rows(keys, part, weights);
        multiply_rows(values, of_part, slopes);
        if (!every || (queries_of(warp_key, warp_key) & queries_of(last, last)) != kAllColumns) {
          mask({own[0] ? queries_of(key, key) : 0, own[1] ? queries_of(key + 8, key + 8) : 0}, weights);
        }
#pragma unroll
        for (int j = 0; j < kColumns / 8; ++j) {
          const float4 two = *reinterpret_cast<const float4*>(of_queries + j * 8 + fragment_pair());
          const QuerySums of_columns[2] = {{two.x, two.y}, {two.z, two.w}};
#pragma unroll
          for (int e = 0; e < 4; ++e) take_weight(of_columns[e % 2], scale2, weights[j][e], slopes[j][e]);
        }
        add_weighted_rows<kWidth>(weights, of_part, value_sums);
        add_weighted_rows<kWidth>(slopes, part, key_sums);
      }
      wait_for_copies<0>();
      __syncthreads();
    }
  }
  put_rows<kWidth>(key_sums, {scale, scale}, first, head.part(dqkv, 1), mode, of_keys);
  put_rows<kWidth>(value_sums, {1, 1}, first, head.part(dqkv, 2), mode, of_values);
}

}  // namespace

template <class Low>
bool tensor_attention_backward(const Attention& layout, const Low* qkv, const bool* valid, const Low* y,
                               const float* logsumexp, const Low* dy, Low* dqkv, Mode mode) {
  if (!fits_tensor_cores(layout, qkv, y, dy, dqkv)) return false;
  with_tile_width(layout.width, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
    if (layout.tokens <= kTile && layout.group == 1) {
      launch(tensor_attention_query_gradient_kernel<true, Low, kWidth>,
             tensor_grid(layout, kAloneSize<kWidth> * sizeof(Low)), layout, qkv, valid, y, logsumexp, dy, nullptr, dqkv,
             mode);
      return;
    }
    const Scratch<QuerySums> query_sums(layout.batch * layout.heads * layout.tokens);
    const std::size_t bytes = kBackwardSize<kWidth> * sizeof(Low);
    launch(tensor_attention_query_gradient_kernel<false, Low, kWidth>, tensor_grid(layout, bytes), layout, qkv, valid,
           y, logsumexp, dy, query_sums.data(), dqkv, mode);
    launch(tensor_attention_key_gradient_kernel<Low, kWidth>,
           tensor_grid(layout, bytes + 2 * kWalk<kWidth> * sizeof(QuerySums), layout.group), layout, qkv, valid,
           query_sums.data(), dy, dqkv, mode);
  });
  return true;
}

template bool tensor_attention_backward(const Attention&, const BFloat16*, const bool*, const BFloat16*, const float*,
                                        const BFloat16*, BFloat16*, Mode);
template bool tensor_attention_backward(const Attention&, const Float16*, const bool*, const Float16*, const float*,
                                        const Float16*, Float16*, Mode);

}  // namespace tapecache::kernels::cuda
