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

/// Gives buffers back, on leaving a scope on this thread, what they held before it, unless that is kept: for passes that are
/// only tried, or may fail and be tried again. It knows of the changes that `before_change` was told of.
class BufferGuard {
 public:
  BufferGuard();
  ~BufferGuard();
  BufferGuard(const BufferGuard&) = delete;
  BufferGuard& operator=(const BufferGuard&) = delete;

  /// Undoes the changes until now.
  void restore();
  /// Leaves the changes until now to the guard around this one.
  void keep();

 private:
  friend void before_change(const Tensor& buffer);

  struct Noted {
    Tensor buffer, before;
  };
  bool knows(const Tensor& buffer) const;

  std::vector<Noted> noted_;
  BufferGuard* outer_;
};

/// To be called before a forward changes a tensor of its own in place, so that a step that fails can be undone.
void before_change(const Tensor& buffer);

}  // namespace tapecache
