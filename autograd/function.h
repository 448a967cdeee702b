#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/tape.h"
#include "tapecache/autograd/variable.h"

namespace tapecache {

/// Any computation over variables.
using VariableFunction = std::function<std::vector<Variable>(std::span<const Variable>)>;

/// Activation checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"): runs `f` and saves
/// only its inputs; backward runs `f` again, in the same `ForwardContext`, to get the values that derivatives need. `f`
/// must not depend on anything that changes in between: if a parameter (frozen or not) or an input changed, backward
/// throws TapeError. Every variable on a tape that `f` reads must be among `inputs`, since its gradient would be lost
/// otherwise; if it is not, this throws TapeError. Throws ValueError for an empty function.
std::vector<Variable> checkpoint(const VariableFunction& f, std::span<const Variable> inputs);

/// Parameters that another library keeps, and trains by gradients of its own. What it computes from them is recorded
/// here like an op, so that an encoder around it is not taken for a frozen one; copies are the same parameters.
class ForeignParameters {
 public:
  /// Takes the gradient of an output, and adds what follows to the other library's gradients.
  using Derivative = std::function<void(const Tensor& gradient)>;

  explicit ForeignParameters(std::string name);

  /// `output`, which was computed from them; where it is recorded, backward calls `derivative` once with its gradient.
  /// What that changes is not undone where a step fails later. Throws ValueError for an empty function.
  Variable record(const char* op, Tensor output, Derivative derivative) const;

  bool frozen() const { return !stand_in_.requires_gradient(); }
  void set_frozen(bool on) { stand_in_.set_requires_gradient(!on); }

 private:
  Parameter stand_in_;  // that the tape and the steps see read
};

}  // namespace tapecache
