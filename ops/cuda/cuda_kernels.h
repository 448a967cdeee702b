#pragma once

#include <cstdint>

#include "tapecache/ops/kernels/table.h"

/// The CUDA kernels, as `ops/kernels/` describes them; each family has a file of its own. Pointers are to memory of the
/// current device, but for the arrays of structures of the updates. Sums are taken in an order that depends on the
/// sizes alone.
namespace tapecache::kernels::cuda {

/// This backend's kernels of one family. Each family's file ends in a definition for each element type.
template <class Family>
struct Provided {
  static const Family kernels;
};

// value = f(x) and gradient *= f'(x), in one pass.
template <class Low>
void low_value_and_derivative(UnaryOp, std::int64_t n, const Low* x, Low* value, Low* gradient);

}  // namespace tapecache::kernels::cuda
