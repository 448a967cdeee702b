#include "tapecache/core/number.h"

#include <fmt/format.h>

#include "tapecache/core/error.h"

namespace tapecache {

Number::Number(const Tensor& scalar) {
  constexpr const char* kExpected = "expected a float64 scalar of a device, or a number of the host";
  if (!scalar.defined() || scalar.numel() != 1) {
    throw ShapeError(fmt::format("number: given as {}, {}", describe(scalar), kExpected));
  }
  if (scalar.dtype() != DType::kFloat64) {
    throw DTypeError(fmt::format("number: given as {}, {}", describe(scalar), kExpected));
  }
  scalar_ = scalar.reshape(Shape{});
}

Tensor Number::on(Device device) const {
  return is_on_device() ? scalar_.to(device) : Tensor::full({}, value_, DType::kFloat64, device);
}

}  // namespace tapecache
