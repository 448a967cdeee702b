#pragma once

#include "tapecache/core/forward_context.h"
#include "tapecache/core/tensor.h"

namespace tapecache {

/// For a scope, every operation of this thread checks its outputs, and in backward the gradients it gives; the first
/// that holds a NaN or Inf throws NumericalError naming it. A parameter whose gradient held one before the pass is
/// named itself. Slow; for finding where a run goes wrong.
class [[nodiscard]] AnomalyMode : ScopedValue<bool> {
 public:
  explicit AnomalyMode(bool on = true) : ScopedValue(forward_context().anomaly_mode, on) {}

  static bool enabled() { return forward_context().anomaly_mode; }
};

namespace detail {
/// Throws NumericalError "anomaly: <what> of '<op>' …" where the tensor holds a NaN or Inf.
void check_anomaly(const char* op, const char* what, const Tensor& tensor);
}  // namespace detail

}  // namespace tapecache
