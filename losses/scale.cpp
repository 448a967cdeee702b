#include "tapecache/losses/losses.h"

#include <cmath>

#include <fmt/format.h>

#include "tapecache/losses/checks.h"
#include "tapecache/ops/checks.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::losses {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Variable at_most(const Variable& x, double limit) { return limit == kInfinity ? x : ops::clamp(x, -kInfinity, limit); }

}  // namespace

/// One that is a parameter's value is the parameter: what it is when the loss is taken counts, not what it was.
Scalar::Scalar(Variable scalar) {
  if (scalar.parameter().defined()) value_ = scalar.parameter();
  else value_ = std::move(scalar);
}

Variable Scalar::value(const char* loss, const char* argument, const Variable& like) const {
  if (const double* number = std::get_if<double>(&value_)) {
    detail::require_finite(loss, argument, *number, like.dtype());
    return detail::constant_like(like, *number);
  }
  const Parameter* trained = std::get_if<Parameter>(&value_);
  Variable scalar = !trained ? std::get<Variable>(value_) : trained->defined() ? Variable(*trained) : Variable();
  ops::detail::require_scalar_like(loss, argument, scalar, like);
  return scalar;
}

Scale Scale::from_temperature(double temperature) {
  if (!(temperature > 0 && std::isfinite(temperature) && std::isfinite(1 / temperature))) {
    throw ValueError(fmt::format(
        "Scale::from_temperature: temperature is {}, expected above 0 and finite, and its inverse too", temperature));
  }
  return 1 / temperature;
}

Scale Scale::from_log(Variable log_scale) {
  Scale scale(std::move(log_scale));
  scale.is_log_ = true;
  return scale;
}

Scale Scale::from_log(Parameter log_scale) {
  Scale scale(std::move(log_scale));
  scale.is_log_ = true;
  return scale;
}

Variable Scale::factor(const char* loss, const Variable& like, double limit) const {
  const Variable scalar = value(loss, is_log_ ? "log_scale" : "scale", like);
  // The logarithm is clamped, since exp(log(limit)) may round to another number than the limit.
  return is_log_ ? ops::exp(at_most(scalar, std::log(limit))) : at_most(scalar, limit);
}

}  // namespace tapecache::losses
