#include "tapecache/autograd/modes.h"
#include "tapecache/core/value_checks.h"

#include <fmt/format.h>

namespace tapecache::detail {

void check_anomaly(const char* op, const char* what, const Tensor& tensor) {
  if (!tensor.defined()) return;
  const std::int64_t at = first_non_finite(tensor);
  if (at < 0) return;
  const double value = tensor.reshape({tensor.numel()}).slice(at, at + 1).item();
  throw NumericalError(fmt::format("anomaly: the {} of '{}' holds {} at element {} of {}", what, op, value, at,
                                   to_string(tensor.shape())));
}

}  // namespace tapecache::detail
