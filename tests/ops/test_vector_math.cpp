#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/ops/elementwise.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {}  // namespace

BOOST_AUTO_TEST_SUITE(float32_functions)

BOOST_AUTO_TEST_CASE(limits) {
  const auto check = [](Variable (*op)(const Variable&), const std::vector<double>& x, const std::vector<double>& y) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
      check_equal(ops::scale(op(vector_of(x).to(dtype)), 1).value(), y);
    }
  };
  check(ops::exp, {-kInfinity, -1e4, 0, 1e4, kInfinity}, {0, 0, 1, kInfinity, kInfinity});
  check(ops::log, {0, 1, kInfinity}, {-kInfinity, 0, kInfinity});
  check(ops::sqrt, {0, 4, kInfinity}, {0, 2, kInfinity});
  check(ops::rsqrt, {4, kInfinity}, {0.5, 0});
  check(ops::tanh, {-kInfinity, -50, 0, 50, kInfinity}, {-1, -1, 0, 1, 1});
  check(ops::erf, {-kInfinity, -50, 0, 50, kInfinity}, {-1, -1, 0, 1, 1});
  check(ops::sigmoid, {-kInfinity, -1e4, 0, 1e4, kInfinity}, {0, 0, 0.5, 1, 1});
  check(ops::softplus, {-kInfinity, -1e4, 1e4, kInfinity}, {0, 0, 1e4, kInfinity});
  check(ops::relu, {-kInfinity, kInfinity}, {0, kInfinity});
  for (const auto& op : {ops::gelu, ops::gelu_tanh, ops::quick_gelu, ops::silu}) {
    check(op, {-1e4, 0, 1e4, kInfinity}, {0, 0, 1e4, kInfinity});
  }
  BOOST_CHECK(std::isnan(ops::log(Tensor::scalar(-1.0f)).value().item()));
  BOOST_CHECK(std::isnan(ops::sqrt(Tensor::scalar(-1.0f)).value().item()));
}

BOOST_AUTO_TEST_CASE(accurate_over_their_whole_range) {
  struct Case {
    const char* name;
    Variable (*op)(const Variable&);
    double (*f)(double);
    double low, high;
    bool logarithmic;  // the sweep runs over x = eᵗ
    double relative, absolute;
  };
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const auto gelu = [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); };
  const auto softplus = [](double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::abs(x))); };
  const Case cases[] = {
      {"exp", ops::exp, [](double x) { return std::exp(x); }, -103.3, 88.7, false, 1e-6, 2e-45},
      {"log", ops::log, [](double x) { return std::log(x); }, -103.1, 88.7, true, 1e-6, 0},
      {"log near 1", ops::log, [](double x) { return std::log(x); }, -0.01, 0.01, true, 1e-6, 0},
      {"tanh", ops::tanh, [](double x) { return std::tanh(x); }, -12.3, 12.1, false, 1e-6, 0},
      {"tanh near 0", ops::tanh, [](double x) { return std::tanh(x); }, -80.0, 0.0, true, 1e-6, 0},
      {"sigmoid", ops::sigmoid, sigmoid, -85.3, 30.1, false, 1e-6, 2e-45},
      {"gelu", ops::gelu, gelu, -12.3, 12.1, false, 1e-6, 1e-6},
      {"softplus", ops::softplus, softplus, -85.3, 30.1, false, 1e-6, 2e-7},
  };
  constexpr int kPoints = 200'003;
  for (const Case& c : cases) {
    std::vector<float> x;
    for (int i = 0; i < kPoints; ++i) {
      const double t = c.low + (c.high - c.low) * i / (kPoints - 1);
      x.push_back(static_cast<float>(c.logarithmic ? std::exp(t) : t));
    }
    const std::vector<double> y = doubles(c.op(Tensor::from(x, {kPoints})).value());
    double worst = 0;
    float at = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double expected = c.f(static_cast<double>(x[i]));
      if (y[i] == expected) continue;
      const double difference = std::isnan(y[i]) ? kInfinity : std::abs(y[i] - expected);
      const double excess = difference / (c.relative * std::abs(expected) + c.absolute);
      if (excess > worst) {
        worst = excess;
        at = x[i];
      }
    }
    BOOST_CHECK_MESSAGE(worst <= 1, c.name << "(" << at << ") is off by " << worst << " times what is allowed");
  }
}

BOOST_AUTO_TEST_CASE(exp_tanh_erf_and_log_are_within_two_units_in_the_last_place) {
  struct Case {
    const char* name;
    Variable (*op)(const Variable&);
    double (*f)(double);
    float low, high;
  };
  const Case cases[] = {
      {"exp", ops::exp, [](double x) { return std::exp(x); }, -103.9f, 88.7f},
      {"tanh", ops::tanh, [](double x) { return std::tanh(x); }, -12, 12},
      {"erf", ops::erf, [](double x) { return std::erf(x); }, -6, 6},
      {"log", ops::log, [](double x) { return std::log(x); }, 1e-44f, 3e38f},
  };
  // Every 997th float32 number of the range, which are as dense as float32 numbers are.
  constexpr std::uint32_t kStep = 997;
  for (const Case& c : cases) {
    std::vector<float> x;
    const auto sweep = [&](float sign, float from, float to) {
      const auto last = std::bit_cast<std::uint32_t>(to);
      for (auto bits = std::bit_cast<std::uint32_t>(from); bits <= last; bits += kStep) {
        x.push_back(sign * std::bit_cast<float>(bits));
      }
    };
    sweep(1, std::fmax(c.low, 0.0f), c.high);
    if (c.low < 0) sweep(-1, 0, -c.low);
    const std::vector<double> y = doubles(c.op(Tensor::from(x, {static_cast<std::int64_t>(x.size())})).value());
    double worst = 0;
    float at = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double expected = c.f(static_cast<double>(x[i]));
      int exponent = 0;
      std::frexp(expected, &exponent);
      const double unit = std::ldexp(1.0, std::max(exponent - 24, -149));  // of float32 at that size
      const double off = std::isnan(y[i]) ? kInfinity : std::abs(y[i] - expected) / unit;
      if (off > worst) {
        worst = off;
        at = x[i];
      }
    }
    BOOST_CHECK_MESSAGE(worst <= 2, c.name << "(" << at << ") is off by " << worst << " units in the last place");
  }
}

BOOST_AUTO_TEST_CASE(gelu_and_its_derivative_are_within_four_units_of_their_own_size) {
  const auto gelu = [](long double x) { return 0.5L * x * std::erfc(-x / std::sqrt(2.0L)); };
  const auto derivative = [](long double x) {
    const long double density = std::exp(-0.5L * x * x) / std::sqrt(2 * std::acos(-1.0L));
    return 0.5L * std::erfc(-x / std::sqrt(2.0L)) + x * density;
  };
  std::vector<float> x;
  constexpr std::uint32_t kStep = 1009;
  for (const float sign : {1.0f, -1.0f}) {
    for (auto bits = std::bit_cast<std::uint32_t>(1e-6f); bits <= std::bit_cast<std::uint32_t>(10.0f); bits += kStep) {
      x.push_back(sign * std::bit_cast<float>(bits));
    }
  }
  // Beside the derivative's root nothing may cancel.
  for (int i = -50; i <= 50; ++i) x.push_back(-0.75179154f + static_cast<float>(i) * 6e-8f);
  const std::vector<double> values = doubles(ops::gelu(Tensor::from(x, {static_cast<std::int64_t>(x.size())})).value());
  const std::vector<double> slopes = [&] {
    Tape tape;
    const Variable leaf = tape.leaf(Tensor::from(x, {static_cast<std::int64_t>(x.size())}));
    const Recording recording(tape);
    const Variable y = ops::gelu(leaf);
    const Tensor ones = Tensor::full(y.shape(), 1);
    tape.backward(std::span(&y, 1), std::span(&ones, 1));
    return doubles(tape.gradient(leaf));
  }();
  const auto check = [&](const char* name, const std::vector<double>& found, const auto& f) {
    double worst = 0;
    float at = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto expected = static_cast<double>(f(static_cast<long double>(x[i])));
      int exponent = 0;
      std::frexp(expected, &exponent);
      const double off =
          std::isnan(found[i]) ? kInfinity : std::abs(found[i] - expected) / std::ldexp(1.0, exponent - 24);
      if (off > worst) {
        worst = off;
        at = x[i];
      }
    }
    BOOST_TEST_MESSAGE(name << ": " << worst << " units at " << at);
    BOOST_CHECK_MESSAGE(worst <= 4, name << "(" << at << ") is off by " << worst << " units in the last place");
  };
  check("gelu", values, gelu);
  check("its derivative", slopes, derivative);
}

BOOST_AUTO_TEST_SUITE_END()
