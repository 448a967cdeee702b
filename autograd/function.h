#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/tape.h"
#include "tapecache/autograd/variable.h"

namespace tapecache {

/// Activation checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"): runs `f` and saves
/// only its inputs; backward runs `f` again, in the same `ForwardContext`, to get the values that derivatives need. `f`
/// must not depend on anything that changes in between: if a parameter (frozen or not) or an input changed, backward
/// throws TapeError. Every variable on a tape that `f` reads must be among `inputs`, since its gradient would be lost
/// otherwise; if it is not, this throws TapeError. Throws ValueError for an empty function.
std::vector<Variable> checkpoint(const std::function<std::vector<Variable>(std::span<const Variable>)>& f,
                                 std::span<const Variable> inputs);

/// Stands for parameters that another library holds and trains with its own gradients. What that library computes from
/// them is recorded like an op, so that an encoder around it does not count as frozen. Copies stand for the same
/// parameters.
class ForeignParameters {
 public:
  /// Gets the gradient of an output, and adds to the other library's gradients.
  using Derivative = std::function<void(const Tensor& gradient)>;

  explicit ForeignParameters(std::string name);

  /// Records `output`, which was computed from the parameters; backward calls `derivative` once with its gradient. What
  /// `derivative` changes is not undone if the step fails later. Throws ValueError for an empty function.
  Variable record(const char* op, Tensor output, Derivative derivative) const;

  bool frozen() const { return !stand_in_.requires_gradient(); }
  void set_frozen(bool on) { stand_in_.set_requires_gradient(!on); }

 private:
  Parameter stand_in_;  // that the tape and the steps see read
};

}  // namespace tapecache
