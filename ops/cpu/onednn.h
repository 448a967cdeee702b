#pragma once

#include <cstdint>

#include "tapecache/core/dtype.h"

/// bf16 products by oneDNN, for processors whose matrix units (AMX) our own kernels do not use. Whether it is there is
/// decided at link time: by `onednn.cpp`, or by the stand-in `no_onednn.cpp`.
namespace tapecache::kernels::onednn {

/// A matrix as it is stored: element (i, j) of what enters the product is data[i · row + j · column], one of which is 1.
struct Matrix {
  const BFloat16* data;
  std::int64_t row, column;
};

/// Whether products of m · n · k multiplications are given to oneDNN: where the processor has AMX and they are large enough
/// to be worth a call; none, or all, where the environment variable TAPECACHE_ONEDNN is `never`, or `always`. Throws
/// ValueError where it is something else, DeviceError for `always` without oneDNN.
bool takes(std::int64_t m, std::int64_t n, std::int64_t k);

/// c [m, n], its rows `c_stride` apart, = (c where `accumulate`) + a b + bias [n], on the calling thread alone. bias may be
/// null. Throws Error with oneDNN's own message.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b, float* c,
              std::int64_t c_stride, bool accumulate, const float* bias);

}  // namespace tapecache::kernels::onednn
