#include "tapecache/ops/cuda/cuda_kernels.h"
#include "tapecache/ops/cuda/devices.h"

namespace tapecache::kernels {

namespace cuda {

namespace {

/// A table's families, as this backend provides them.
template <class... Families>
constexpr std::tuple<const Families*...> provided(const std::tuple<const Families*...>&) {
  return {&Provided<Families>::kernels...};
}

constexpr KernelTable kTable = provided(KernelTable());

}  // namespace

}  // namespace cuda

const KernelTable& cuda_table(int device) {
  cuda::select_device(device);
  return cuda::kTable;
}

}  // namespace tapecache::kernels
