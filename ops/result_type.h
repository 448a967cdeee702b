#pragma once

#include "tapecache/core/language.h"

namespace tapecache::ops {

/// The type of a product's result where `Autocast` has it take operands of 16 bits.
enum class ResultType {
  kComputed,  ///< f32, in which it is added up
  kOperand,   ///< that of its operands: for results that are read by another product alone, and half the memory
};

}  // namespace tapecache::ops
