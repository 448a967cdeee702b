#pragma once

#include <functional>
#include <span>
#include <vector>

#include "tapecache/autograd/tape.h"

namespace tapecache {

/// Any computation over variables.
using VariableFunction = std::function<std::vector<Variable>(std::span<const Variable>)>;

/// Activation checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"): runs `f` keeping
/// only its inputs, and runs it again within backward, in the same `ForwardContext`, for the values its derivatives
/// need. `f` must depend on nothing that changes in between; a parameter, frozen or not, or an input that did is a
/// TapeError in backward. Throws ValueError for an empty function. What `f` reads that is on a tape must be among the
/// inputs: a TapeError else, since its gradient would be lost.
std::vector<Variable> checkpoint(const VariableFunction& f, std::span<const Variable> inputs);

}  // namespace tapecache
