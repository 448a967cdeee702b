#include "tapecache/ops/cpu/cpu_kernels.h"
#include "tapecache/ops/cpu/row_math.h"

namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT {

namespace {

template <class T>
void cross_entropy(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets, T* loss,
                   T* logsumexp) {
  parallel_for(rows, block_for(cols * 4), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const LogSumExp<T> normalizer = row_logsumexp_parts(x + row * cols, cols);
      logsumexp[2 * row] = normalizer.shift;
      logsumexp[2 * row + 1] = normalizer.rest;
      loss[row] = normalizer.rest - (x[row * cols + targets[row]] - normalizer.shift);
    }
  });
}

template <class T>
void cross_entropy_backward(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets,
                            const T* logsumexp, const T* dloss, std::int64_t dloss_stride, double scale, T* dx,
                            Mode mode) {
  parallel_for(rows, block_for(cols * 4), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T gradient = dloss[row * dloss_stride] * static_cast<T>(scale);
      const Vec<T> shift = set(logsumexp[2 * row]), factor = set(gradient * exponential_of(-logsumexp[2 * row + 1]));
      T* to = dx + row * cols;
      map_to(
          mode, cols, to, [=](auto v) TAPECACHE_INLINE { return hn::Mul(factor, exponential(hn::Sub(v, shift))); },
          x + row * cols);
      to[targets[row]] -= gradient;
    }
  });
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

}  // namespace tapecache::kernels::cpu::inline TAPECACHE_CPU_VARIANT
