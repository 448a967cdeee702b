#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/put.cuh"
#include "tapecache/ops/cuda/row_logsumexp.cuh"

namespace tapecache::kernels::cuda {

namespace {

template <class T, class By>
__global__ void __launch_bounds__(kMaxRowThreads)
    cross_entropy_kernel(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets, T* loss,
                         T* logsumexp) {
  for (std::int64_t i = By::first_row(); i < rows; i += By::row_step()) {
    const Row<By, Elements<T>> row(cols, {x + i * cols});
    const LogSumExp<T> normalizer = logsumexp_parts(row);
    if (By::thread() != 0) continue;
    logsumexp[2 * i] = normalizer.shift;
    logsumexp[2 * i + 1] = normalizer.rest;
    loss[i] = normalizer.rest - (x[i * cols + targets[i]] - normalizer.shift);
  }
}

template <class T>
__global__ void cross_entropy_backward_kernel(std::int64_t n, std::int64_t cols, const T* x,
                                              const std::int64_t* targets, const T* logsumexp, const T* dloss,
                                              std::int64_t dloss_stride, T scale, T* dx, Mode mode) {
  for (std::int64_t at = thread_index(); at < n; at += thread_count()) {
    const std::int64_t row = at / cols;
    const T shift = logsumexp[2 * row], rest = logsumexp[2 * row + 1];
    const T gradient = dloss[row * dloss_stride] * scale, spread = gradient * std::exp(x[at] - shift - rest);
    put(dx[at], at - row * cols == targets[row] ? spread - gradient : spread, mode);
  }
}

template <class T>
void cross_entropy(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets, T* loss,
                   T* logsumexp) {
  with_row_threads(rows, cols, [&]<class By>(By, const Grid& grid) {
    launch(cross_entropy_kernel<T, By>, grid, rows, cols, x, targets, loss, logsumexp);
  });
}

template <class T>
void cross_entropy_backward(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets,
                            const T* logsumexp, const T* dloss, std::int64_t dloss_stride, double scale, T* dx,
                            Mode mode) {
  launch(cross_entropy_backward_kernel<T>, grid_for(rows * cols), rows * cols, cols, x, targets, logsumexp, dloss,
         dloss_stride, scale, dx, mode);
}

template <class T>
constexpr CrossEntropyKernels<T> kCrossEntropy{
    .cross_entropy = cross_entropy<T>,
    .cross_entropy_backward = cross_entropy_backward<T>,
};

}  // namespace

template <>
const CrossEntropyKernels<float> Provided<CrossEntropyKernels<float>>::kernels = kCrossEntropy<float>;
template <>
const CrossEntropyKernels<double> Provided<CrossEntropyKernels<double>>::kernels = kCrossEntropy<double>;

}  // namespace tapecache::kernels::cuda
