#pragma once

#include <string_view>
#include <tuple>

#include "tapecache/core/device.h"
#include "tapecache/core/dtype.h"
#include "tapecache/ops/kernels/attention.h"
#include "tapecache/ops/kernels/batch_norm.h"
#include "tapecache/ops/kernels/binary.h"
#include "tapecache/ops/kernels/contrastive.h"
#include "tapecache/ops/kernels/cross_entropy.h"
#include "tapecache/ops/kernels/dropout.h"
#include "tapecache/ops/kernels/gate.h"
#include "tapecache/ops/kernels/gemm.h"
#include "tapecache/ops/kernels/layout.h"
#include "tapecache/ops/kernels/maxsim.h"
#include "tapecache/ops/kernels/normalize.h"
#include "tapecache/ops/kernels/pair_masks.h"
#include "tapecache/ops/kernels/patches.h"
#include "tapecache/ops/kernels/pooling.h"
#include "tapecache/ops/kernels/reduce.h"
#include "tapecache/ops/kernels/rope.h"
#include "tapecache/ops/kernels/rows.h"
#include "tapecache/ops/kernels/softmax.h"
#include "tapecache/ops/kernels/unary.h"
#include "tapecache/ops/kernels/update.h"

#pragma GCC visibility push(hidden)

/// The contract between ops and backends. A family of kernels is a struct of pointers to plain functions over pointers
/// and sizes; a backend has one object of each family for each element type, and one table of these objects. The build
/// reads the includes.
namespace tapecache::kernels {

template <class T, template <class> class... Families>
using ObjectsOf = std::tuple<const Families<T>*...>;

// A family stands on a line of its own.
// clang-format off

template <class T>
using FamiliesOver = ObjectsOf<T,
    AttentionKernels,
    BatchNormKernels,
    BinaryKernels,
    ContrastiveKernels,
    CrossEntropyKernels,
    DropoutKernels,
    GateKernels,
    GatherKernels,
    GemmKernels,
    LayoutKernels,
    MaxSimKernels,
    NormalizeKernels,
    PairMaskKernels,
    PatchKernels,
    PoolingKernels,
    ReduceKernels,
    RopeKernels,
    SoftmaxKernels,
    UnaryKernels,
    UpdateKernels>;

template <class Low>
using FamiliesOverLow = ObjectsOf<Low,
    AttentionKernels,
    GateKernels,
    GemmKernels,
    NormalizeKernels,
    PatchKernels,
    ReduceKernels,
    RopeKernels,
    UnaryKernels>;

// clang-format on

/// A backend's object of each family.
using KernelTable = decltype(std::tuple_cat(FamiliesOver<float>(), FamiliesOver<double>(), FamiliesOverLow<BFloat16>(),
                                            FamiliesOverLow<Float16>()));

/// Of the most demanding variant of this build that the processor can run, or of the one that the environment variable
/// TAPECACHE_CPU names. Throws DeviceError where the processor can run none, ValueError for an unknown name.
const KernelTable& cpu_table();

/// The name of that variant: "native", "x86-64-v3", …
std::string_view cpu_variant();

/// Its kernels run on the given device, for this thread, until it is asked for again. Of `ops/cuda`, or of
/// `ops/no_cuda`, which throws DeviceError. Decided at link time.
const KernelTable& cuda_table(int device);

/// The table of what a backend has in its `Provided<Family>::kernels`.
template <template <class> class Provided, class... Families>
constexpr std::tuple<const Families*...> table_of(const std::tuple<const Families*...>&) {
  return {&Provided<Families>::kernels...};
}

namespace detail {
[[noreturn]] void throw_missing(const char* op, Device device, DType dtype);
}

/// A kernel of a device, as &SoftmaxKernels<T>::softmax names it. Throws DTypeError "softmax: no cuda kernel for
/// float64" where the device has none.
template <template <class> class Family, class T, class Function>
Function find(Function Family<T>::*kernel, const char* op, Device device) {
  const KernelTable& table = device.is_cpu() ? cpu_table() : cuda_table(device.index);
  const Function function = std::get<const Family<T>*>(table)->*kernel;
  if (!function) detail::throw_missing(op, device, dtype_of<T>());
  return function;
}

}  // namespace tapecache::kernels

#pragma GCC visibility pop
