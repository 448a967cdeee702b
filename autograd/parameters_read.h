#pragma once

#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/core/forward_context.h"

#pragma GCC visibility push(hidden)

namespace tapecache {

/// Collects the parameters that operations read within a scope while no tape is active.
class [[nodiscard]] ParametersRead : public detail::OfOneScope {
 public:
  ParametersRead();

  /// Each parameter once, in order of first use.
  std::vector<Parameter> all() const;
  /// The same without frozen parameters.
  std::vector<Parameter> distinct() const;

 private:
  std::vector<Parameter> seen_;
  ScopedValue<std::vector<Parameter>*> listed_;
};

}  // namespace tapecache

#pragma GCC visibility pop
