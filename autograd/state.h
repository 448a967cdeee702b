#pragma once

#include <span>
#include <vector>

#include "tapecache/autograd/variable.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// The values of parameters, and after them buffers, by name. They share their elements with the model, so that writing
/// to one changes it.
inline std::vector<Buffer> state_of(std::span<const Parameter> parameters, std::span<const Buffer> buffers = {}) {
  std::vector<Buffer> state;
  for (const Parameter& p : parameters) state.push_back({p.name(), p.value()});
  state.insert(state.end(), buffers.begin(), buffers.end());
  return state;
}

}  // namespace tapecache

#pragma GCC visibility pop
