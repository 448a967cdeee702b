#pragma once

#include <functional>
#include <span>
#include <vector>

#include "tapecache/autograd/tape.h"

namespace tapecache {

/// Any computation over variables.
using VariableFunction = std::function<std::vector<Variable>(std::span<const Variable>)>;

/// Activation checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"): runs `f` and saves
/// only its inputs; backward runs `f` again, in the same `ForwardContext`, to get the values that derivatives need. `f`
/// must not depend on anything that changes in between: if a parameter (frozen or not) or an input changed, backward
/// throws TapeError. Every variable on a tape that `f` reads must be among `inputs`, since its gradient would be lost
/// otherwise; if it is not, this throws TapeError. Throws ValueError for an empty function.
std::vector<Variable> checkpoint(const VariableFunction& f, std::span<const Variable> inputs);

}  // namespace tapecache
