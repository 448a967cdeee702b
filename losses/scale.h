#pragma once

#include <limits>
#include <utility>
#include <variant>

#include "tapecache/autograd/variable.h"

namespace tapecache::losses {

/// A number that a loss computes with, or a scalar in its place, which may be trained. A parameter is read when the
/// loss is taken, so that options may be kept from step to step.
class Scalar {
 public:
  Scalar(double number) : value_(number) {}
  Scalar(Variable scalar);
  Scalar(Tensor constant) : value_(Variable(std::move(constant))) {}
  Scalar(Parameter trained) : value_(std::move(trained)) {}

  /// The scalar, of the type and on the device of `like`. Throws, naming the loss and the argument, ValueError for a
  /// number that is not finite in that type and for what is undefined, and ShapeError, DTypeError or DeviceError for
  /// another kind of Variable.
  Variable value(const char* loss, const char* argument, const Variable& like) const;

 private:
  std::variant<double, Variable, Parameter> value_;
};

/// What a loss multiplies similarities by, the inverse of a temperature.
class Scale : public Scalar {
 public:
  using Scalar::Scalar;

  /// 1 / temperature. Throws ValueError unless both are above 0 and finite.
  static Scale from_temperature(double temperature);
  /// exp(log_scale), as CLIP and SigLIP train it: the scale stays positive.
  static Scale from_log(Variable log_scale);
  static Scale from_log(Parameter log_scale);

  /// The factor, at most `limit`. Throws as `value` does.
  Variable factor(const char* loss, const Variable& like, double limit = std::numeric_limits<double>::infinity()) const;

 private:
  bool is_log_ = false;  // the value is the logarithm of the factor
};

}  // namespace tapecache::losses
