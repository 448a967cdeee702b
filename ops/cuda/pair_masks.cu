#include <bit>
#include <cstdint>
#include <type_traits>

#include "tapecache/ops/cuda/block_reduce.cuh"
#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/launch.cuh"
#include "tapecache/ops/cuda/scratch.h"

namespace tapecache::kernels::cuda {

namespace {

/// others[i] is the number of other rows that have row i's label.
__global__ void count_others_kernel(std::int64_t n, const std::int64_t* labels, std::int64_t* others) {
  for (std::int64_t i = blockIdx.x; i < n; i += gridDim.x) {
    std::int64_t count = 0;
    for (std::int64_t j = threadIdx.x; j < n; j += blockDim.x) count += j != i && labels[j] == labels[i];
    count = block_sum(count);
    if (threadIdx.x == 0) others[i] = count;
  }
}

__global__ void count_anchors_kernel(std::int64_t n, const std::int64_t* others, std::int64_t* rows, bool* any) {
  std::int64_t count = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) count += others[i] > 0;
  count = block_sum(count);
  if (threadIdx.x != 0) return;
  *rows = count;
  *any = count > 0;
}

template <class T>
__global__ void weigh_pairs_kernel(std::int64_t n, const std::int64_t* labels, const std::int64_t* others,
                                   const std::int64_t* rows, T* pairs) {
  for (std::int64_t at = thread_index(); at < n * n; at += thread_count()) {
    const std::int64_t i = at / n, j = at - i * n;
    const double share = others[i] > 0 ? 1 / static_cast<double>(*rows) : 0.0;
    const bool positive = i != j && labels[i] == labels[j];
    pairs[at] = positive ? static_cast<T>(share / static_cast<double>(others[i])) : T(0);
  }
}

template <class T>
__global__ void false_negatives_kernel(FalseNegatives rule, const double* similarities, const double* positives,
                                       T excluded, T* mask) {
  for (std::int64_t at = thread_index(); at < rule.rows * rule.cols; at += thread_count()) {
    const std::int64_t i = at / rule.cols, j = at - i * rule.cols;
    const bool nearer = similarities[at] > rule.threshold(positives[i * rule.positive_step]);
    const bool kept = rule.kept_step > 0 && j == i * rule.kept_step;
    mask[at] = (nearer && !kept) || (rule.self && j == i) ? excluded : T(0);
  }
}

template <class T>
__global__ void excluded_pairs_kernel(EqualPairs equal, std::int64_t queries, std::int64_t targets, T* mask) {
  for (std::int64_t at = thread_index(); at < queries * targets; at += thread_count()) {
    const std::int64_t i = at / targets;
    mask[at] = static_cast<T>(equal.excludes(i, at - i * targets));
  }
}

/// Rows [rows, tokens, width] of which only the valid tokens count.
template <class T>
struct MaskedRows {
  using Bits = std::conditional_t<sizeof(T) == sizeof(std::uint32_t), std::uint32_t, std::uint64_t>;
  std::int64_t rows, tokens, width;
  const T* x;
  const bool* valid;

  __device__ std::int64_t elements() const { return tokens * width; }
  __device__ bool counts(std::int64_t row, std::int64_t at) const { return !valid || valid[row * tokens + at / width]; }
  __device__ Bits bits(std::int64_t row, std::int64_t at) const {
    return std::bit_cast<Bits>(x[row * elements() + at]);
  }
  __device__ bool equal(std::int64_t a, std::int64_t b) const {
    for (std::int64_t at = 0; at < elements(); ++at) {
      if (counts(a, at) != counts(b, at) || (counts(a, at) && bits(a, at) != bits(b, at))) return false;
    }
    return true;
  }
};

/// A number's bits mixed: the finaliser of MurmurHash3.
__device__ inline std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

/// A block for each row.
template <class T>
__global__ void hash_rows_kernel(MaskedRows<T> rows, std::uint64_t* hashes) {
  for (std::int64_t i = blockIdx.x; i < rows.rows; i += gridDim.x) {
    std::uint64_t hash = 0;
    for (std::int64_t at = threadIdx.x; at < rows.elements(); at += blockDim.x) {
      if (rows.counts(i, at)) hash += mixed(rows.bits(i, at) + mixed(static_cast<std::uint64_t>(at) + 1));
    }
    hash = block_sum(hash);
    if (threadIdx.x == 0) hashes[i] = hash;
  }
}

/// A block for each row, whose threads look for the first that equals it.
template <class T>
__global__ void equal_rows_kernel(MaskedRows<T> rows, const std::uint64_t* hashes, std::int64_t* ids) {
  for (std::int64_t i = blockIdx.x; i < rows.rows; i += gridDim.x) {
    std::int64_t first = i;
    for (std::int64_t j = threadIdx.x; j < first; j += blockDim.x) {
      if (hashes[j] == hashes[i] && rows.equal(j, i)) first = j;
    }
    first = block_reduce(first, Minimum{});
    if (threadIdx.x == 0) ids[i] = first;
  }
}

template <class T>
void positive_pairs(std::int64_t n, const std::int64_t* labels, T* pairs, bool* any) {
  const Scratch<std::int64_t> others(n), rows(1);
  launch(count_others_kernel, grid_of_rows(n), n, labels, others.data());
  launch(count_anchors_kernel, grid_of_rows(1), n, others.data(), rows.data(), any);
  launch(weigh_pairs_kernel<T>, grid_for(n * n), n, labels, others.data(), rows.data(), pairs);
}

template <class T>
void false_negatives(const FalseNegatives& rule, const double* similarities, const double* positives, T excluded,
                     T* mask) {
  launch(false_negatives_kernel<T>, grid_for(rule.rows * rule.cols), rule, similarities, positives, excluded, mask);
}

template <class T>
void excluded_pairs(const EqualPairs& equal, std::int64_t queries, std::int64_t targets, T* mask) {
  launch(excluded_pairs_kernel<T>, grid_for(queries * targets), equal, queries, targets, mask);
}

template <class T>
void equal_rows(std::int64_t rows, std::int64_t tokens, std::int64_t width, const T* x, const bool* valid,
                std::int64_t* ids) {
  const MaskedRows<T> all{rows, tokens, width, x, valid};
  const Scratch<std::uint64_t> hashes(rows);
  launch(hash_rows_kernel<T>, grid_of_rows(rows), all, hashes.data());
  launch(equal_rows_kernel<T>, grid_of_rows(rows), all, hashes.data(), ids);
}

template <class T>
constexpr PairMaskKernels<T> kPairMask{
    .positive_pairs = positive_pairs<T>,
    .false_negatives = false_negatives<T>,
    .excluded_pairs = excluded_pairs<T>,
    .equal_rows = equal_rows<T>,
};

}  // namespace

template <>
const PairMaskKernels<float> Provided<PairMaskKernels<float>>::kernels = kPairMask<float>;
template <>
const PairMaskKernels<double> Provided<PairMaskKernels<double>>::kernels = kPairMask<double>;

}  // namespace tapecache::kernels::cuda
