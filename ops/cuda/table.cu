#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/devices.h"

namespace tapecache::kernels {

namespace cuda {

namespace {

constexpr KernelTable kTable = table_of<Provided>(KernelTable());

}  // namespace

}  // namespace cuda

const KernelTable& cuda_table(int device) {
  cuda::select_device(device);
  return cuda::kTable;
}

}  // namespace tapecache::kernels
