#pragma once

#include "tapecache/core/dtype.h"

namespace tapecache::testing {

inline constexpr DType kAllTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16,
                                      DType::kInt32,   DType::kInt64,   DType::kUInt8,    DType::kBool};

}  // namespace tapecache::testing
