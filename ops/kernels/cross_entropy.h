#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/mode.h"

/// Cross-entropy of rows of logits with one target each. All arrays are contiguous and row-major.
namespace tapecache::kernels {

template <class T>
struct CrossEntropyKernels {
  // loss[r] = logsumexp(x[r]) - x[r, target[r]]; logsumexp [rows, 2] is in two parts, whose sum it is. In backward row
  // r has the cotangent scale * dloss[r * dloss_stride].
  void (*cross_entropy)(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets, T* loss,
                        T* logsumexp);
  void (*cross_entropy_backward)(std::int64_t rows, std::int64_t cols, const T* x, const std::int64_t* targets,
                                 const T* logsumexp, const T* dloss, std::int64_t dloss_stride, double scale, T* dx,
                                 Mode);
};

}  // namespace tapecache::kernels
