#include "tapecache/ops/kernels/table.h"

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache::kernels::detail {

void throw_missing(const char* op, Device device, DType dtype) {
  throw DTypeError(fmt::format("{}: no {} kernel for {}", op, device.is_cpu() ? "cpu" : "cuda", name(dtype)));
}

}  // namespace tapecache::kernels::detail
