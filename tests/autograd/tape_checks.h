#pragma once

#include <span>

#include "tapecache/autograd/tape.h"

namespace tapecache::testing {

/// From one output.
inline void backward(Tape& tape, const Variable& output, const Tensor& seed) {
  tape.backward(std::span(&output, 1), std::span(&seed, 1));
}

}  // namespace tapecache::testing
