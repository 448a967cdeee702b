#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/scratch.h"

/// Many sums at once, of terms that are computed as they are needed. Long sums are cut into chunks, by the sizes alone,
/// and the sums of the chunks added in order.
namespace tapecache::kernels::cuda {

/// Which terms lie next to each other in memory: those of one sum, or those of neighbouring sums.
enum class Adjacent { kTerms, kSums };

constexpr unsigned kColumnsOfBlock = 32, kRowsOfBlock = 8;

/// Σ term(k) for k from `first` to before `end` in steps: a few are added in T, and their sums in what loses nothing.
/// Where those few overflow in T, each of them is.
template <class T, class Term>
__device__ auto sum_in_steps(std::int64_t first, std::int64_t end, std::int64_t step, const Term& term) {
  constexpr int kFew = 8;
  using Long = typename LongSum<T>::Type;
  Long sum(0);
  std::int64_t k = first;
  for (; k + (kFew - 1) * step < end; k += kFew * step) {
    T few(0);
#pragma unroll
    for (int i = 0; i < kFew; ++i) few += term(k + i * step);
    if constexpr (!std::is_same_v<T, Long>) {
      if (!all_finite(few)) {
        Long each(0);
#pragma unroll 1
        for (int i = 0; i < kFew; ++i) each += static_cast<Long>(term(k + i * step));
        sum += finite_or(few, each);  // of several sums, those that did not overflow keep their bits
        continue;
      }
    }
    sum += static_cast<Long>(few);
  }
  for (; k < end; k += step) sum += static_cast<Long>(term(k));
  return sum;
}

/// Part [i, c] of sum i over its terms of chunk c, a block for each. Parts are written as To.
template <class T, class To, class Term>
__global__ void sum_adjacent_terms_kernel(std::int64_t parts, std::int64_t chunks, std::int64_t length,
                                          std::int64_t chunk, Term term, T factor, To* to, Mode mode) {
  using Long = typename LongSum<T>::Type;
  for (std::int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    const std::int64_t i = part / chunks, begin = part % chunks * chunk;
    const std::int64_t end = begin + chunk < length ? begin + chunk : length;
    const Long own = sum_in_steps<T>(begin + threadIdx.x, end, blockDim.x, [&](std::int64_t k) { return term(i, k); });
    const Long sum = block_sum(own);
    if (threadIdx.x == 0) put(to[part], static_cast<To>(static_cast<Long>(factor) * sum), mode);
  }
}

/// Part [c, i] of sum i over its terms of chunk c; a block takes the terms of 32 sums 8 at a time. Parts are written as
/// To.
template <class T, class To, class Term>
__global__ void sum_adjacent_sums_kernel(std::int64_t count, std::int64_t chunks, std::int64_t length,
                                         std::int64_t chunk, Term term, T factor, To* to, Mode mode) {
  using Long = typename LongSum<T>::Type;
  __shared__ Long sums[kRowsOfBlock][kColumnsOfBlock];
  const unsigned column = threadIdx.x % kColumnsOfBlock, row = threadIdx.x / kColumnsOfBlock;
  const std::int64_t groups = (count + kColumnsOfBlock - 1) / kColumnsOfBlock;
  for (std::int64_t part = blockIdx.x; part < groups * chunks; part += gridDim.x) {
    const std::int64_t c = part / groups, i = part % groups * kColumnsOfBlock + column, begin = c * chunk;
    const std::int64_t end = begin + chunk < length ? begin + chunk : length;
    Long sum(0);
    if (i < count) {
      sum = sum_in_steps<T>(begin + row, end, kRowsOfBlock, [&](std::int64_t k) { return term(i, k); });
    }
    sums[row][column] = sum;
    __syncthreads();
    if (row == 0 && i < count) {
      for (unsigned r = 1; r < kRowsOfBlock; ++r) sum += sums[r][column];
      put(to[c * count + i], static_cast<To>(static_cast<Long>(factor) * sum), mode);
    }
    __syncthreads();  // sums is free again
  }
}

template <class T, class To>
__global__ void sum_chunks_kernel(std::int64_t count, std::int64_t chunks, std::int64_t sum_step,
                                  std::int64_t chunk_step, const typename LongSum<T>::Type* parts, T factor, To* to,
                                  Mode mode) {
  using Long = typename LongSum<T>::Type;
  for (std::int64_t i = thread_index(); i < count; i += thread_count()) {
    Long sum(0);
    for (std::int64_t c = 0; c < chunks; ++c) sum += parts[i * sum_step + c * chunk_step];
    put(to[i], static_cast<To>(static_cast<Long>(factor) * sum), mode);
  }
}

/// to[i] = factor · Σ term(i, k) over k in [0, length), or += it, for i in [0, count). `term` is called on the device.
template <Adjacent adjacent, class T, class To, class Term>
void sum_terms(std::int64_t count, std::int64_t length, const Term& term, T factor, To* to, Mode mode) {
  constexpr std::int64_t kEnoughBlocks = 512, kLeastTerms = 1024, kLeastRows = 128;
  if (count == 0) return;
  constexpr bool terms = adjacent == Adjacent::kTerms;
  const std::int64_t blocks = terms ? count : divide_up(count, kColumnsOfBlock);
  const std::int64_t most = divide_up(length, terms ? kLeastTerms : kLeastRows);
  const std::int64_t wanted = std::max<std::int64_t>(1, std::min(kEnoughBlocks / blocks, most));
  const std::int64_t chunk = std::max<std::int64_t>(1, divide_up(length, wanted));
  const std::int64_t chunks = std::max<std::int64_t>(1, divide_up(length, chunk));

  const auto sum_chunks_into = [&]<class Part>(Part* parts, T times, Mode how) {
    if constexpr (terms) {
      const unsigned threads = chunk <= 64 ? 32 : chunk <= 512 ? 64 : kThreads;
      launch(sum_adjacent_terms_kernel<T, Part, Term>, grid_of_rows(count * chunks, threads), count * chunks, chunks,
             length, chunk, term, times, parts, how);
    } else {
      launch(sum_adjacent_sums_kernel<T, Part, Term>, grid_of_rows(blocks * chunks, kColumnsOfBlock * kRowsOfBlock),
             count, chunks, length, chunk, term, times, parts, how);
    }
  };
  if (chunks == 1) return sum_chunks_into(to, factor, mode);
  const Scratch<typename LongSum<T>::Type> parts(count * chunks);
  sum_chunks_into(parts.data(), T(1), Mode::kWrite);
  launch(sum_chunks_kernel<T, To>, grid_for(count), count, chunks, terms ? chunks : 1, terms ? 1 : count, parts.data(),
         factor, to, mode);
}

template <class T, class To, class Term>
void sum_terms(std::int64_t count, std::int64_t length, Adjacent adjacent, const Term& term, T factor, To* to,
               Mode mode) {
  if (adjacent == Adjacent::kTerms) sum_terms<Adjacent::kTerms>(count, length, term, factor, to, mode);
  else sum_terms<Adjacent::kSums>(count, length, term, factor, to, mode);
}

}  // namespace tapecache::kernels::cuda
