#pragma once

#include <cuda_runtime.h>

#include "tapecache/core/element.h"
#include "tapecache/ops/kernels/mode.h"

namespace tapecache::kernels::cuda {

template <class T>
__device__ void put(T& destination, T value, Mode mode) {
  destination = mode == Mode::kWrite ? value : destination + value;
}
/// The value rounded, or what is there plus the value.
template <class Low>
requires kLowPrecision<Low> __device__ void put(Low& destination, float value, Mode mode) {
  destination = Low(mode == Mode::kWrite ? value : static_cast<float>(destination) + value);
}

}  // namespace tapecache::kernels::cuda
