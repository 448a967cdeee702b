#pragma once

#include <cstdint>

#include "tapecache/ops/kernels.h"

/// The CUDA kernels, as `kernels.h` describes them; each family has a file of its own. Pointers are to memory of the current
/// device, but for the arrays of structures of the updates. Sums are taken in an order that depends on the sizes alone.
namespace tapecache::kernels::cuda {

#include "tapecache/ops/kernel_declarations.inc"

// value = f(x) and gradient *= f'(x), in one pass.
template <class Low>
void low_value_and_derivative(UnaryOp, std::int64_t n, const Low* x, Low* value, Low* gradient);

}  // namespace tapecache::kernels::cuda
