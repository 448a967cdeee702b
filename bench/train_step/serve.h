#pragma once

#include <functional>
#include <istream>
#include <string>

#include "workloads.h"

namespace train_step {

/// Takes a workload's steps on request: reads requests, a line each, and answers each with a line of
/// JSON, so that its steps can be taken in turn with another program's (bench/peers).
///
///   step            one step: "seconds", "loss"
///   peak            "bytes": of a device, the most in use at once since the last reference or comparison; of the host,
///                   the most that the process has had, beyond what it had before the workload was made
///   flops           "flops" of a step, and "gemm_ceiling", what `gemm_ceiling` gives, per second
///   reference PATH  writes weights, inputs, loss and gradients, before any step
///   compare PATH    relative differences from such a file: "loss", "gradient" (over all parameters), and the parameter
///                   whose own is the largest, relative to at least a thousandth of all gradients' norm: "worst",
///                   "worst_gradient"
///
/// A request that fails is answered by {"error": …}.
void serve(std::istream& requests, const std::string& name, const Setting& setting,
           const std::function<double()>& gemm_ceiling);

}  // namespace train_step
