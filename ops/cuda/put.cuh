#pragma once

#include <cuda_runtime.h>

#include "tapecache/ops/kernels.h"

namespace tapecache::kernels::cuda {

template <class T>
__device__ void put(T& destination, T value, Mode mode) {
  destination = mode == Mode::kWrite ? value : destination + value;
}

}  // namespace tapecache::kernels::cuda
