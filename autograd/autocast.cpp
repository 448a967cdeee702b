#include "tapecache/autograd/autocast.h"

#include <fmt/format.h>

namespace tapecache {

namespace {
thread_local DType active_dtype = DType::kFloat32;
}

DType autocast_dtype() { return active_dtype; }

Autocast::Autocast(DType dtype) : previous_(active_dtype) {
  if (dtype != DType::kFloat32 && !is_low_precision(dtype)) {
    throw DTypeError(fmt::format("autocast: {} asked for, expected bfloat16 or float16, or float32 for none", name(dtype)));
  }
  if (is_low_precision(dtype) && !OperandCache::current()) operands_in_force_.emplace(operands_.emplace());
  active_dtype = dtype;
}

Autocast::~Autocast() { active_dtype = previous_; }

}  // namespace tapecache
