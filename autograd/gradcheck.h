#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/tape.h"

namespace tapecache {

struct GradcheckOptions {
  double step = 1e-6;                ///< half distance of the central difference
  double absolute_tolerance = 1e-6;  ///< allowed difference where the derivative is near 0
  double relative_tolerance = 1e-5;  ///< allowed difference relative to the larger derivative
  std::uint64_t seed = 1;            ///< of the cotangent
};

struct GradcheckResult {
  bool passed = false;
  double max_absolute_difference = 0;
  std::string message;  ///< empty where it passed; else names input, element and both derivatives
};

/// Compares the gradient of <c, f(x)> with central differences in f64, for a random cotangent c in [-1, 1] and every
/// element of every floating input. `f` must be deterministic and may be called many times. Inputs of other types
/// are passed as constants. Throws DTypeError where a floating input is not f64, ValueError for an empty function.
GradcheckResult gradcheck(const std::function<Variable(std::span<const Variable>)>& f, std::span<const Tensor> inputs,
                          const GradcheckOptions& options = {});
inline GradcheckResult gradcheck(const std::function<Variable(std::span<const Variable>)>& f,
                                 std::initializer_list<Tensor> inputs, const GradcheckOptions& options = {}) {
  return gradcheck(f, std::span(inputs.begin(), inputs.size()), options);
}

}  // namespace tapecache
