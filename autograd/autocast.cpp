#include "tapecache/autograd/modes.h"

#include <fmt/format.h>

#include "tapecache/autograd/autograd_context.h"
#include "tapecache/autograd/operand_cache.h"
#include "tapecache/core/element.h"

namespace tapecache {

namespace {

DType checked(DType dtype) {
  if (dtype != DType::kFloat32 && !is_low_precision(dtype)) {
    throw DTypeError(
        fmt::format("autocast: {} asked for, expected bfloat16 or float16, or float32 for none", name(dtype)));
  }
  return dtype;
}

}  // namespace

Autocast::Autocast(DType dtype) : dtype_(forward_context().autocast, checked(dtype)) {
  if (!is_low_precision(dtype) || OperandCache::current()) return;
  operands_ = std::make_unique<OperandCache>();
  operands_in_use_.emplace(detail::autograd_context.operands, operands_.get());
}

Autocast::~Autocast() = default;

}  // namespace tapecache
