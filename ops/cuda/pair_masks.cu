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
                                   const std::int64_t* rows, T* pairs, T* anchors) {
  for (std::int64_t at = thread_index(); at < n * n; at += thread_count()) {
    const std::int64_t i = at / n, j = at - i * n;
    const double share = others[i] > 0 ? 1 / static_cast<double>(*rows) : 0.0;
    const bool positive = i != j && labels[i] == labels[j];
    pairs[at] = positive ? static_cast<T>(share / static_cast<double>(others[i])) : T(0);
    if (j == 0) anchors[i] = static_cast<T>(share);
  }
}

template <class T>
__global__ void false_negatives_kernel(FalseNegatives rule, const double* similarities, const double* positives, T excluded,
                                       T* mask) {
  for (std::int64_t at = thread_index(); at < rule.rows * rule.cols; at += thread_count()) {
    const std::int64_t i = at / rule.cols, j = at - i * rule.cols;
    const bool nearer = similarities[at] > rule.threshold(positives[i * rule.positive_step]);
    const bool kept = rule.kept_step > 0 && j == i * rule.kept_step;
    mask[at] = (nearer && !kept) || (rule.self && j == i) ? excluded : T(0);
  }
}

}  // namespace

template <class T>
void positive_pairs(std::int64_t n, const std::int64_t* labels, T* pairs, T* anchors, bool* any) {
  const Scratch<std::int64_t> others(n), rows(1);
  launch(count_others_kernel, grid_of_rows(n), n, labels, others.data());
  launch(count_anchors_kernel, grid_of_rows(1), n, others.data(), rows.data(), any);
  launch(weigh_pairs_kernel<T>, grid_for(n * n), n, labels, others.data(), rows.data(), pairs, anchors);
}

template <class T>
void false_negatives(const FalseNegatives& rule, const double* similarities, const double* positives, T excluded, T* mask) {
  launch(false_negatives_kernel<T>, grid_for(rule.rows * rule.cols), rule, similarities, positives, excluded, mask);
}

template void positive_pairs(std::int64_t, const std::int64_t*, float*, float*, bool*);
template void positive_pairs(std::int64_t, const std::int64_t*, double*, double*, bool*);
template void false_negatives(const FalseNegatives&, const double*, const double*, float, float*);
template void false_negatives(const FalseNegatives&, const double*, const double*, double, double*);

}  // namespace tapecache::kernels::cuda
