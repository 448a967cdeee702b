#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tapecache/autograd/parameter.h"

namespace tapecache {

/// A named tensor that belongs to a model's state without being learned, such as a running average: it is saved with
/// the weights and gets no gradient. Copies view the same storage, so it is changed in place.
struct Buffer {
  std::string name;
  Tensor value;
};

/// Parameters and buffers alike, by name: the tensors themselves, so that writing to one changes the model.
inline std::vector<Buffer> state_of(std::span<const Parameter> parameters, std::span<const Buffer> buffers = {}) {
  std::vector<Buffer> state;
  for (const Parameter& p : parameters) state.push_back({p.name(), p.value()});
  state.insert(state.end(), buffers.begin(), buffers.end());
  return state;
}

/// To be called before a forward changes a tensor of its own in place, so that a step that fails can be undone
/// (`UndoLog`).
void before_change(const Tensor& buffer);

}  // namespace tapecache
