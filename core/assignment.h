#pragma once

#include <span>

#include "tapecache/core/tensor.h"

#pragma GCC visibility push(hidden)

namespace tapecache::detail {

/// A tensor and what it is to hold, of which a mapped file is taken as it is, where it can be.
struct Assignment {
  Tensor to, from;
  bool is_mapped = false;
};

/// Makes all of them. The tensors of each have one shape, type and device and do not overlap; on the host nothing is
/// allocated, so that all are made or, where an exception came before, none.
void assign(std::span<Assignment> assignments);

}  // namespace tapecache::detail

#pragma GCC visibility pop
