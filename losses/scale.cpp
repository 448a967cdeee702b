#include "tapecache/losses/scale.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tapecache/losses/checks.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::losses {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Variable at_most(const Variable& x, double limit) { return limit == kInfinity ? x : ops::clamp(x, -kInfinity, limit); }

}  // namespace

Scale Scale::from_temperature(double temperature) {
  if (!(temperature > 0)) {
    throw ValueError(fmt::format("Scale::from_temperature: temperature is {}, expected above 0", temperature));
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
  if (const double* number = std::get_if<double>(&value_)) return detail::constant_like(like, std::min(*number, limit));
  const Parameter* trained = std::get_if<Parameter>(&value_);
  const Variable scalar = !trained ? std::get<Variable>(value_) : trained->defined() ? Variable(*trained) : Variable();
  detail::require_scalar(loss, is_log_ ? "log_scale" : "scale", scalar);
  // The logarithm is clamped, since exp(log(limit)) may round to another number than the limit.
  return is_log_ ? ops::exp(at_most(scalar, std::log(limit))) : at_most(scalar, limit);
}

}  // namespace tapecache::losses
