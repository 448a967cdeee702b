#pragma once

#include <limits>
#include <utility>
#include <variant>

#include "tapecache/autograd/variable.h"

namespace tapecache::losses {

/// What a loss multiplies similarities by, the inverse of a temperature: a number, or a scalar that may be trained. A parameter
/// is read when the loss is taken, so that options may be kept from step to step.
class Scale {
 public:
  Scale(double number) : value_(number) {}
  Scale(Variable scalar) : value_(std::move(scalar)) {}
  Scale(Tensor constant) : value_(Variable(std::move(constant))) {}
  Scale(Parameter trained) : value_(std::move(trained)) {}

  /// 1 / temperature. Throws ValueError unless the temperature is above 0.
  static Scale from_temperature(double temperature);
  /// exp(log_scale), as CLIP and SigLIP train it: the scale stays positive.
  static Scale from_log(Variable log_scale);
  static Scale from_log(Parameter log_scale);

  /// The factor, at most `limit`: a scalar, where it is a number of the type and on the device of `like`. Throws ShapeError,
  /// which names the loss, where a Variable is no scalar.
  Variable factor(const char* loss, const Variable& like, double limit = std::numeric_limits<double>::infinity()) const;

 private:
  std::variant<double, Variable, Parameter> value_;
  bool is_log_ = false;  // the value is the logarithm of the factor
};

}  // namespace tapecache::losses
