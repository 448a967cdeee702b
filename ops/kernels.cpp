#include "tapecache/ops/kernels.h"

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::kernels::detail {

void throw_missing(const char* op, Device device, bool is_double) {
  throw DTypeError(fmt::format("{}: no {} kernel for {}", op, device.is_cpu() ? "cpu" : "cuda",
                               is_double ? "float64" : "float32"));
}

}  // namespace tapecache::kernels::detail
