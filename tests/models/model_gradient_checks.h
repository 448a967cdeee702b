#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "model_checks.h"
#include "tapecache/core/random.h"

namespace tapecache::testing {

/// <c, f> for the given cotangent.
inline double projected(const Forward& forward, const std::vector<double>& cotangent) {
  const std::vector<double> y = doubles(values_of(forward));
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * cotangent[i];
  return sum;
}

/// The derivative along one element by central differences, in f64.
inline double central_difference(const Forward& forward, const std::vector<double>& cotangent, Parameter parameter,
                                 std::int64_t element, double step = 1e-5) {
  const double value = parameter.value().data<double>()[element];
  parameter.mutable_value().mutable_data<double>()[element] = value + step;
  const double above = projected(forward, cotangent);
  parameter.mutable_value().mutable_data<double>()[element] = value - step;
  const double below = projected(forward, cotangent);
  parameter.mutable_value().mutable_data<double>()[element] = value;
  return (above - below) / (2 * step);
}

/// The element of the largest gradient, and a few others.
inline std::vector<std::int64_t> elements_to_check(const std::vector<double>& gradient, std::uint64_t seed) {
  const auto larger = [](double a, double b) { return std::abs(a) < std::abs(b); };
  std::vector<std::int64_t> elements{std::max_element(gradient.begin(), gradient.end(), larger) - gradient.begin()};
  const auto word = RandomKey{seed}.draw(1, 2);
  for (std::size_t i = 0; i < 3; ++i) elements.push_back(static_cast<std::int64_t>(word[i] % gradient.size()));
  return elements;
}

/// Every parameter has a gradient, and it is the one that central differences give.
inline void check_gradients(const Forward& forward, std::span<const Parameter> parameters) {
  BOOST_REQUIRE(!parameters.empty());
  clear_gradients(parameters);
  const std::vector<double> cotangent = run_backward(forward);
  std::uint64_t seed = 0;
  for (const Parameter& p : parameters) {
    BOOST_TEST_CONTEXT(p.name()) {
      BOOST_REQUIRE(p.gradient().defined());
      BOOST_TEST((p.gradient().shape() == p.value().shape()));
      const std::vector<double> gradient = doubles(p.gradient());
      // A shift of all keys moves no softmax, so that this one gradient is 0. It is k_proj.bias, key.bias or
      // k_lin.bias.
      const bool vanishes =
          p.name().ends_with(".bias") && p.name()[p.name().rfind('.', p.name().size() - 6) + 1] == 'k';
      const double largest = std::abs(gradient[static_cast<std::size_t>(elements_to_check(gradient, 0).front())]);
      BOOST_TEST((vanishes ? largest <= 1e-12 : largest > 1e-6), "largest gradient " << largest);
      for (const std::int64_t element : elements_to_check(gradient, ++seed)) {
        const double found = gradient[static_cast<std::size_t>(element)];
        const double expected = central_difference(forward, cotangent, p, element);
        BOOST_TEST(std::abs(found - expected) <= 1e-8 + 2e-7 * std::abs(expected),
                   "element " << element << ": " << found << ", by differences " << expected);
      }
    }
  }
}

}  // namespace tapecache::testing
