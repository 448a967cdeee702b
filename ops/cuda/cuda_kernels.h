#pragma once

#include <cstdint>

#include "tapecache/ops/kernels.h"

/// The CUDA kernels, as `kernels.h` describes them; each family has a file of its own. Pointers are to memory of the current
/// device, but for the arrays of structures of the updates. Sums are taken in an order that depends on the sizes alone.
namespace tapecache::kernels::cuda {

#include "tapecache/ops/kernel_declarations.inc"

}  // namespace tapecache::kernels::cuda
