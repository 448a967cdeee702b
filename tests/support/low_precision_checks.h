#pragma once

#include "tapecache/core/device.h"
#include "tapecache/core/dtype.h"

/// Results of 16 bits between ops (ResultType::kOperand), against the same ops in f64. On any device; `low` is bf16 or
/// f16.
namespace tapecache::testing {

/// The ops of a transformer block one after another: what is between them is of 16 bits, and the gradients near.
void check_low_block(Device device, DType low);

/// A block with rotary positions, heads that share keys, a window and a gated perceptron.
void check_low_gated_block(Device device, DType low);

/// One such result that each op which takes it reads, so that its gradient is added up in 16 bits.
void check_low_readers(Device device, DType low);

/// A product that is cut into several parts, with and without a bias, written and accumulated.
void check_low_large_product(Device device, DType low);

}  // namespace tapecache::testing
