#pragma once

#include <span>
#include <unordered_set>
#include <vector>

#include "tapecache/autograd/variable.h"

#pragma GCC visibility push(hidden)

namespace tapecache::train::detail {

/// The gradients that there are; of parameters listed more than once, as tied weights may be, once.
inline std::vector<Tensor> distinct_gradients(std::span<const Parameter> parameters) {
  std::unordered_set<const void*> seen;
  std::vector<Tensor> gradients;
  for (const Parameter& p : parameters) {
    if (seen.insert(p.id()).second && p.gradient().defined()) gradients.push_back(p.gradient());
  }
  return gradients;
}

}  // namespace tapecache::train::detail

#pragma GCC visibility pop
