#include "tapecache/core/error.h"
#include "tapecache/ops/kernels.h"

namespace tapecache::kernels {

namespace {

[[noreturn]] void throw_no_cuda() { throw DeviceError("cuda: this build has no CUDA backend"); }

}  // namespace

template <>
const KernelTable<float>& cuda_table<float>() {
  throw_no_cuda();
}

template <>
const KernelTable<double>& cuda_table<double>() {
  throw_no_cuda();
}

}  // namespace tapecache::kernels
