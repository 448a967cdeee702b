#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "tapecache/ops/cuda/attention_head.cuh"
#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/packs.cuh"
#include "tapecache/ops/kernels/attention.h"

/// The products of tiles that attention consists of: scores of a tile of rows with a tile of others, and sums of those
/// others weighted by the scores. A block computes both, each thread a patch of the scores and a few columns of the
/// sums.
namespace tapecache::kernels::cuda {

constexpr int kStep = 32;              // of the width, or of a tile's tokens, that are in shared memory at a time
constexpr int kRows = 8, kCols = 4;    // of a tile of scores, a thread's
constexpr int kLanes = kTile / kCols;  // neighbouring threads that have the same rows
constexpr unsigned kTileThreads = kTile / kRows * kLanes;
constexpr int kPitch = kTile + 4;
constexpr int kStaged = 2 * kStep * kPitch, kShared = kStaged + kTile * kPitch;

template <class T>
constexpr T kNothing = -std::numeric_limits<T>::infinity();

__device__ inline int own_row() { return static_cast<int>(threadIdx.x) / kLanes * kRows; }
__device__ inline int own_lane() { return static_cast<int>(threadIdx.x) % kLanes; }

/// What there is to do, in pieces of a tile of rows by some columns of one head, or of one group of heads.
struct Work {
  std::int64_t tiles, slices, columns, count;

  Work(const Attention& layout, std::int64_t columns_at_once, std::int64_t group = 1)
      : tiles(divide_up(layout.tokens, kTile)),
        slices(divide_up(layout.width, columns_at_once)),
        columns(columns_at_once),
        count(layout.batch * (layout.heads / group) * tiles * slices) {}
  __device__ std::int64_t head(std::int64_t i) const { return i / slices / tiles; }
  __device__ std::int64_t first(std::int64_t i) const { return i / slices % tiles * kTile; }
  __device__ std::int64_t column(std::int64_t i) const { return i % slices * columns; }
};

template <class T>
using Scores = T[kRows][kCols];
template <class T, int kColumns>
using Sums = T[kRows][kColumns / kLanes];

/// A tile's rows, `kStep` columns of them, one column after the other.
template <class Element, class T>
__device__ void stage_columns(const Rows<Element>& rows, std::int64_t first, std::int64_t begin, T* to) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kStep; i += kTileThreads) {
    to[i % kStep * kPitch + i / kStep] = rows.template value<T>(first + i / kStep, begin + i % kStep);
  }
}

/// A Bᵀ of the tiles that begin with first_a and first_b.
template <class Element, class T>
__device__ void multiply_tiles(const Rows<Element>& a, std::int64_t first_a, const Rows<Element>& b,
                               std::int64_t first_b, T* staged, Scores<T>& products) {
#pragma unroll
  for (auto& row : products) {
#pragma unroll
    for (T& product : row) product = T{0};
  }
  T *of_a = staged, *of_b = staged + kStep * kPitch;
  for (std::int64_t begin = 0; begin < a.width; begin += kStep) {
    __syncthreads();  // all have read what was there
    stage_columns(a, first_a, begin, of_a);
    stage_columns(b, first_b, begin, of_b);
    __syncthreads();
    const int steps = a.width - begin < kStep ? static_cast<int>(a.width - begin) : kStep;
    for (int k = 0; k < steps; ++k) {
      const auto left = read_pack<kRows>(of_a + k * kPitch + own_row());
      const auto right = read_pack<kCols>(of_b + k * kPitch + own_lane() * kCols);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kCols; ++j) products[i][j] += left.x[i] * right.x[j];
      }
    }
  }
}

/// Hands the other threads a tile of weights, transposed, as the products of In take them. They may be read after the
/// next barrier.
template <class In, class T>
__device__ void share(const Scores<T>& weights, T* to) {
#pragma unroll
  for (int j = 0; j < kCols; ++j) {
    T* column = to + (own_lane() * kCols + j) * kPitch + own_row();
#pragma unroll
    for (int i = 0; i < kRows; ++i) column[i] = static_cast<T>(static_cast<In>(weights[i][j]));
  }
}

/// Where a thread's columns are: pieces of a few neighbours.
template <int kColumns>
struct OwnColumns {
  static constexpr int kOwn = kColumns / kLanes, kPiece = kOwn < 4 ? kOwn : 4;
  __device__ static int at(int c) { return (c / kPiece * kLanes + own_lane()) * kPiece + c % kPiece; }
};

/// sums += W B, of the shared weights and some columns of the `count` tokens from `first` on.
template <int kColumns, class Element, class T>
__device__ void add_weighted(const T* weights, const Rows<Element>& b, std::int64_t first, int count,
                             std::int64_t column, T* staged, Sums<T, kColumns>& sums) {
  using Own = OwnColumns<kColumns>;
  for (int begin = 0; begin < count; begin += kStep) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kStep * kColumns; i += kTileThreads) {
      staged[i] = b.template value<T>(first + begin + i / kColumns, column + i % kColumns);
    }
    __syncthreads();
    const int steps = count - begin < kStep ? count - begin : kStep;
    for (int k = 0; k < steps; ++k) {
      const auto left = read_pack<kRows>(weights + (begin + k) * kPitch + own_row());
#pragma unroll
      for (int c = 0; c < Own::kOwn; c += Own::kPiece) {
        const auto right = read_pack<Own::kPiece>(staged + k * kColumns + Own::at(c));
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int e = 0; e < Own::kPiece; ++e) sums[i][c + e] += left.x[i] * right.x[e];
        }
      }
    }
  }
}

/// What the threads that share rows hold, combined.
template <class T, class Combine>
__device__ T combine_lanes(T value, Combine combine) {
  for (int bits = kLanes / 2; bits > 0; bits /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, bits));
  return value;
}

/// Calls `f` with the columns that a block takes: as many as fit into the registers of its threads.
template <class T, class F>
void with_columns(std::int64_t width, const F& f) {
  if (width <= 32) return f(std::integral_constant<int, 32>{});
  if constexpr (std::is_same_v<T, float>) {
    if (width > 64) return f(std::integral_constant<int, 128>{});
  }
  f(std::integral_constant<int, 64>{});
}

template <class T>
Grid grid_of_tiles(const Work& work) {
  return {block_count(work.count), kTileThreads, kShared * sizeof(T)};
}

}  // namespace tapecache::kernels::cuda
