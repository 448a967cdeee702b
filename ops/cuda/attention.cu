#include <cmath>
#include <limits>

#include "tapecache/core/element.h"
#include "tapecache/ops/cuda/attention_tensor.h"
#include "tapecache/ops/cuda/attention_tiles.cuh"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/cudnn_attention.h"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/scratch.h"

// Attention whose scores exist for one tile of queries and keys at a time (Dao et al. 2022, "FlashAttention"). A block
// has a tile of the rows of a result, and as many of its columns as its threads can hold sums of; it walks over the
// tiles of what those rows meet. Forward, dQ, dK and dV are such results, each taken by itself: so no sum has two
// writers, and scores are computed again rather than kept. Of any width.
namespace tapecache::kernels::cuda {

namespace {

/// The larger; a NaN is passed over, as long as the first is none.
struct LargerNumber {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};

/// A row's softmax so far: its maximum, unscaled, and this thread's part of the sum of exponentials relative to that.
/// Large scores are subtracted before they are scaled, as the rounded product of the maximum could be far from theirs.
template <class T>
struct RunningRow {
  T largest = kNothing<T>, sum{0};

  /// Turns this thread's scores of a tile into exponentials; returns the factor that brings earlier sums to their
  /// maximum.
  __device__ T add(T (&scores)[kCols], T scale) {
    T here = kNothing<T>;
#pragma unroll
    for (const T score : scores) here = LargerNumber{}(here, score);
    here = combine_lanes(here, LargerNumber{});
    const T before = largest;
    largest = LargerNumber{}(before, here);
    const T factor = before == largest ? T{1} : std::exp((before - shift()) * scale);
    sum *= factor;
#pragma unroll
    for (T& score : scores) {
      score = std::exp((score - shift()) * scale);
      sum += score;
    }
    return factor;
  }
  __device__ T shift() const { return largest == kNothing<T> ? T{0} : largest; }
};

/// log Σ exp(scale · score) of a row as scale · shift + rest. For operands of 16 bits it is kept as one number, as
/// kernels of other kinds have it.
template <class In, class T>
struct Normalizer {
  T shift, rest;

  __device__ void put(T* logsumexp, std::int64_t row, T scale) const {
    if constexpr (kLowPrecision<In>) {
      logsumexp[row] = shift * scale + rest;
    } else {
      logsumexp[2 * row] = shift;
      logsumexp[2 * row + 1] = rest;
    }
  }
  __device__ static Normalizer get(const T* logsumexp, std::int64_t row) {
    if constexpr (kLowPrecision<In>) return {T{0}, logsumexp[row]};
    else return {logsumexp[2 * row], logsumexp[2 * row + 1]};
  }
};

template <class In, class T, int kColumns>
__global__ void __launch_bounds__(kTileThreads)
    attention_kernel(Attention layout, Work work, const In* qkv, const bool* valid, In* y, T* logsumexp) {
  T *staged = dynamic_shared<T>(), *weights = staged + kStaged;
  const T scale = static_cast<T>(layout.scale);
  for (std::int64_t piece = blockIdx.x; piece < work.count; piece += gridDim.x) {
    const Head head(layout, valid, work.head(piece));
    const auto queries = head.part(qkv, 0), keys = head.part(qkv, 1), values = head.part(qkv, 2);
    const std::int64_t first = work.first(piece), column = work.column(piece), end = head.keys_of(first);
    RunningRow<T> rows[kRows];
    Sums<T, kColumns> sums = {};
    for (std::int64_t key = head.first_key(first); key < end; key += kTile) {
      Scores<T> scores;
      multiply_tiles(queries, first, keys, key, staged, scores);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kCols; ++j) {
          if (!head.attends(first + own_row() + i, key + own_lane() * kCols + j)) scores[i][j] = kNothing<T>;
        }
        const T factor = rows[i].add(scores[i], scale);
#pragma unroll
        for (T& sum : sums[i]) sum *= factor;
      }
      share<In>(scores, weights);
      add_weighted<kColumns>(weights, values, key, end - key < kTile ? static_cast<int>(end - key) : kTile, column,
                             staged, sums);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const T total = combine_lanes(rows[i].sum, Sum{}), inverse = total == T{0} ? T{0} : T{1} / total;
      const std::int64_t token = first + own_row() + i;
      if (token >= layout.tokens) continue;
#pragma unroll
      for (int c = 0; c < OwnColumns<kColumns>::kOwn; ++c) {
        const std::int64_t at = column + OwnColumns<kColumns>::at(c);
        if (at < layout.width) head.output(y).at(token, at) = In(sums[i][c] * inverse);
      }
      if (column == 0 && own_lane() == 0) {
        Normalizer<In, T>{rows[i].shift(), std::log(total)}.put(logsumexp, head.row_of(token), scale);
      }
    }
  }
}

/// Σ dY Y of each row, as logsumexp is laid out: a warp for each.
template <class In, class T>
__global__ void dots_kernel(Attention layout, const In* y, const In* dy, T* dots) {
  const std::int64_t count = layout.batch * layout.heads * layout.tokens;
  for (std::int64_t row = thread_index() / kWarp; row < count; row += thread_count() / kWarp) {
    const Head head(layout, nullptr, row / layout.tokens);
    const std::int64_t token = row % layout.tokens;
    T sum{0};
    for (std::int64_t k = threadIdx.x % kWarp; k < layout.width; k += kWarp) {
      sum += head.output(y).template value<T>(token, k) * head.output(dy).template value<T>(token, k);
    }
    sum = warp_reduce(sum, Sum{});
    if (threadIdx.x % kWarp == 0) dots[row] = sum;
  }
}

enum class GradientOf { kQueries, kKeys, kValues };

// P = exp(S - logsumexp); dV = Pᵀ dY; dS = P (dY Vᵀ - Σ dY Y); dQ = scale dS K; dK = scale dSᵀ Q
template <class In, class T, int kColumns, GradientOf kOf>
__global__ void __launch_bounds__(kTileThreads)
    attention_backward_kernel(Attention layout, Work work, const In* qkv, const bool* valid, const T* logsumexp,
                              const T* dots, const In* dy, In* dqkv, Mode mode) {
  constexpr bool kOfQueries = kOf == GradientOf::kQueries;
  T *staged = dynamic_shared<T>(), *weights = staged + kStaged;
  const T scale = static_cast<T>(layout.scale);
  const std::int64_t members = kOfQueries ? 1 : layout.group;
  for (std::int64_t piece = blockIdx.x; piece < work.count; piece += gridDim.x) {
    const std::int64_t first = work.first(piece), column = work.column(piece);
    Sums<T, kColumns> sums = {};
    // Keys and values get their gradients from all heads that share them.
    for (std::int64_t member = 0; member < members; ++member) {
      const Head head(layout, valid, work.head(piece) * members + member);
      const auto queries = head.part(qkv, 0), keys = head.part(qkv, 1), values = head.part(qkv, 2);
      const auto gradients = head.output(dy);
      const std::int64_t begin = kOfQueries ? head.first_key(first) : head.first_query(first);
      const std::int64_t end = kOfQueries ? head.keys_of(first) : head.queries_of(first);
      for (std::int64_t other = begin; other < end; other += kTile) {
        Scores<T> scores, slopes = {};
        if constexpr (kOfQueries) {
          multiply_tiles(queries, first, keys, other, staged, scores);
          multiply_tiles(gradients, first, values, other, staged, slopes);
        } else {
          multiply_tiles(keys, first, queries, other, staged, scores);
          if constexpr (kOf == GradientOf::kKeys) multiply_tiles(values, first, gradients, other, staged, slopes);
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int j = 0; j < kCols; ++j) {
            const std::int64_t row = first + own_row() + i, col = other + own_lane() * kCols + j;
            const std::int64_t query = kOfQueries ? row : col, key = kOfQueries ? col : row;
            T weight{0};
            if (query < layout.tokens && head.attends(query, key)) {
              const auto normalizer = Normalizer<In, T>::get(logsumexp, head.row_of(query));
              if (normalizer.rest != kNothing<T>)
                weight = std::exp((scores[i][j] - normalizer.shift) * scale - normalizer.rest);
              if constexpr (kOf != GradientOf::kValues) weight *= (slopes[i][j] - dots[head.row_of(query)]) * scale;
            }
            scores[i][j] = weight;
          }
        }
        share<In>(scores, weights);
        const auto& summed = kOfQueries ? keys : kOf == GradientOf::kKeys ? queries : gradients;
        add_weighted<kColumns>(weights, summed, other, end - other < kTile ? static_cast<int>(end - other) : kTile,
                               column, staged, sums);
      }
    }
    const Head head(layout, valid, work.head(piece) * members);
    const auto to = head.part(dqkv, static_cast<int>(kOf));
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const std::int64_t token = first + own_row() + i;
      if (token >= layout.tokens) continue;
#pragma unroll
      for (int c = 0; c < OwnColumns<kColumns>::kOwn; ++c) {
        const std::int64_t at = column + OwnColumns<kColumns>::at(c);
        if (at < layout.width) put(to.at(token, at), sums[i][c], mode);
      }
    }
  }
}

template <class In, class T>
void attention_tiles(const Attention& layout, const In* qkv, const bool* valid, In* y, T* logsumexp) {
  with_columns<T>(layout.width, [&]<int kColumns>(std::integral_constant<int, kColumns>) {
    const Work work(layout, kColumns);
    launch(attention_kernel<In, T, kColumns>, grid_of_tiles<T>(work), layout, work, qkv, valid, y, logsumexp);
  });
}

template <class In, class T>
void attention_tiles_backward(const Attention& layout, const In* qkv, const bool* valid, const In* y,
                              const T* logsumexp, const In* dy, In* dqkv, Mode mode) {
  const std::int64_t rows = layout.batch * layout.heads * layout.tokens;
  const Scratch<T> dots(rows);
  launch(dots_kernel<In, T>, grid_for(rows * kWarp), layout, y, dy, dots.data());
  with_columns<T>(layout.width, [&]<int kColumns>(std::integral_constant<int, kColumns>) {
    const auto run = [&](auto kernel, const Work& work) {
      launch(kernel, grid_of_tiles<T>(work), layout, work, qkv, valid, logsumexp, dots.data(), dy, dqkv, mode);
    };
    const Work of_keys(layout, kColumns, layout.group);
    run(attention_backward_kernel<In, T, kColumns, GradientOf::kQueries>, Work(layout, kColumns));
    run(attention_backward_kernel<In, T, kColumns, GradientOf::kKeys>, of_keys);
    run(attention_backward_kernel<In, T, kColumns, GradientOf::kValues>, of_keys);
  });
}

// The choice of a way: cuDNN where it has one, tensor cores where they can, and tiles, which can do all there is. The
// first declines a window and heads that share keys.
template <class In, class T>
void run_attention(const Attention& layout, const In* qkv, const bool* valid, In* y, T* logsumexp) {
  if constexpr (kLowPrecision<In>) {
    if (cudnn_attention(layout, qkv, valid, y, logsumexp)) return;
    if (tensor_attention(layout, qkv, valid, y, logsumexp)) return;
  }
  attention_tiles(layout, qkv, valid, y, logsumexp);
}

template <class In, class T>
void run_attention_backward(const Attention& layout, const In* qkv, const bool* valid, const In* y, const T* logsumexp,
                            const In* dy, In* dqkv, Mode mode) {
  if constexpr (kLowPrecision<In>) {
    if (cudnn_attention_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode)) return;
    if (tensor_attention_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode)) return;
  }
  attention_tiles_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode);
}

template <class T>
void attention(const Attention& layout, const T* qkv, const bool* valid, T* y, T* logsumexp) {
  run_attention(layout, qkv, valid, y, logsumexp);
}

template <class T>
void attention_backward(const Attention& layout, const T* qkv, const bool* valid, const T* y, const T* logsumexp,
                        const T* dy, T* dqkv, Mode mode) {
  run_attention_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode);
}

template <class Low>
void low_attention(const Attention& layout, const Low* qkv, const bool* valid, Low* y, float* logsumexp) {
  run_attention(layout, qkv, valid, y, logsumexp);
}

template <class Low>
void low_attention_backward(const Attention& layout, const Low* qkv, const bool* valid, const Low* y,
                            const float* logsumexp, const Low* dy, Low* dqkv, Mode mode) {
  run_attention_backward(layout, qkv, valid, y, logsumexp, dy, dqkv, mode);
}

template <class T>
constexpr AttentionKernels<T> kAttention{
    .attention = attention<T>,
    .attention_backward = attention_backward<T>,
};
template <class Low>
requires kLowPrecision<Low>
constexpr AttentionKernels<Low> kAttention<Low>{
    .attention = low_attention<Low>,
    .attention_backward = low_attention_backward<Low>,
};

}  // namespace

template <>
const AttentionKernels<float> Provided<AttentionKernels<float>>::kernels = kAttention<float>;
template <>
const AttentionKernels<double> Provided<AttentionKernels<double>>::kernels = kAttention<double>;
template <>
const AttentionKernels<BFloat16> Provided<AttentionKernels<BFloat16>>::kernels = kAttention<BFloat16>;
template <>
const AttentionKernels<Float16> Provided<AttentionKernels<Float16>>::kernels = kAttention<Float16>;

}  // namespace tapecache::kernels::cuda
