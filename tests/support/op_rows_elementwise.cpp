#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "op_table.h"
#include "tapecache/ops/elementwise.h"

namespace tapecache::testing {

namespace {

using Binary = Variable (*)(const Variable&, const Variable&);
using Scalar = double (*)(double);

void add_binary_rows(std::vector<OpRow>& rows, const std::string& name, Binary op, double (*f)(double, double)) {
  const auto row = [&](const std::string& variant, const Shape& a, const Shape& b, std::vector<Input> large = {}) {
    const double flops = large.empty() ? 0 : static_cast<double>(large.front().shape.numel());
    rows.push_back({.name = name + "_" + variant,
                    .inputs = {floating(a), floating(b, 0.5, 2)},
                    .op = [op](std::span<const Variable> x) { return op(x[0], x[1]); },
                    .reference = [f](std::span<const NaiveArray> x) { return naive_binary(x[0], x[1], f); },
                    .large = std::move(large),
                    .flops = flops});
  };
  const Shape large{2048, 513};
  row("same_shape", {2, 3, 4}, {2, 3, 4}, {floating(large), floating(large, 0.5, 2)});
  row("bias", {2, 3, 4}, {4}, {floating(large), floating({513}, 0.5, 2)});
  row("bias_on_the_left", {4}, {2, 3, 4});
  row("scalar", {2, 3}, {}, {floating(large), floating({}, 0.5, 2)});
  row("scalar_on_the_left", {}, {2, 3});
  row("two_scalars", {}, {});
  row("leading_one", {1, 3, 4}, {2, 3, 4});
  row("middle_one", {2, 3, 4}, {2, 1, 4}, {floating({64, 65, 250}), floating({64, 1, 250}, 0.5, 2)});
  row("trailing_one", {3, 4}, {3, 1}, {floating(large), floating({2048, 1}, 0.5, 2)});
  row("both_sides", {3, 1, 4}, {2, 1});
  row("outer", {3, 1}, {1, 5});
  row("rank_six", {2, 1, 2, 1, 2, 1}, {1, 3, 2, 2, 1, 2});
  row("no_rows", {0, 4}, {4});
}

/// With large inputs where `flops` is given: of an element, as vector code takes them that evaluates a polynomial of
/// usual length.
void add_unary_row(std::vector<OpRow>& rows, const std::string& name, Op op, std::function<double(double)> f,
                   std::vector<Input> inputs, double flops = 0) {
  const Input& input = inputs.front();
  std::vector<Input> large_inputs;
  if (flops > 0) large_inputs = {floating({1024, 1025}, input.low, input.high)};
  rows.push_back({.name = name,
                  .inputs = std::move(inputs),
                  .op = std::move(op),
                  .reference = [f](std::span<const NaiveArray> x) { return naive_unary(x[0], f); },
                  .large = std::move(large_inputs),
                  .flops = flops * 1024 * 1025});
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }
double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

void add_unary_rows(std::vector<OpRow>& rows) {
  struct Case {
    std::string name;
    Variable (*op)(const Variable&);
    Scalar f;
    double low, high;
    bool extremes;  // finite, with a finite derivative, for arguments of any size
    double flops;
  };
  const std::vector<Case> cases{
      {"negate", ops::negate, [](double x) { return -x; }, -2, 2, true, 1},
      {"exp", ops::exp, [](double x) { return std::exp(x); }, -2, 2, false, 20},
      {"log", ops::log, [](double x) { return std::log(x); }, 0.2, 3, false, 25},
      {"sqrt", ops::sqrt, [](double x) { return std::sqrt(x); }, 0.2, 3, false, 12},
      {"rsqrt", ops::rsqrt, [](double x) { return 1 / std::sqrt(x); }, 0.2, 3, false, 20},
      {"tanh", ops::tanh, [](double x) { return std::tanh(x); }, -3, 3, true, 30},
      {"erf", ops::erf, [](double x) { return std::erf(x); }, -3, 3, true, 40},
      {"sigmoid", ops::sigmoid, sigmoid, -4, 4, true, 25},
      {"relu", ops::relu, [](double x) { return std::max(x, 0.0); }, -2, 2, true, 1},
      {"gelu", ops::gelu, gelu, -4, 4, true, 45},
      {"gelu_tanh", ops::gelu_tanh, gelu_tanh, -4, 4, true, 40},
      {"quick_gelu", ops::quick_gelu, [](double x) { return x * sigmoid(1.702 * x); }, -4, 4, true, 27},
      {"silu", ops::silu, [](double x) { return x * sigmoid(x); }, -4, 4, true, 26},
      {"softplus", ops::softplus, softplus, -4, 4, true, 45},
  };
  for (const Case& c : cases) {
    const Op op = [f = c.op](std::span<const Variable> x) { return f(x[0]); };
    add_unary_row(rows, c.name, op, c.f, {floating({3, 4, 5}, c.low, c.high)}, c.flops);
    if (c.extremes) {
      add_unary_row(rows, c.name + "_far_out", op, c.f,
                    {floating({13}, {-1000, -400, -120, -90, -40, -15, -6, 6, 15, 40, 90, 120, 1000})});
    }
  }
  const Op exp = [](std::span<const Variable> x) { return ops::exp(x[0]); };
  add_unary_row(rows, "exp_scalar", exp, [](double x) { return std::exp(x); }, {floating({})});
  add_unary_row(rows, "exp_no_elements", exp, [](double x) { return std::exp(x); }, {floating({0, 3})});

  add_unary_row(
      rows, "scale", [](std::span<const Variable> x) { return ops::scale(x[0], 1.75); },
      [](double x) { return 1.75 * x; }, {floating({3, 4, 5})}, 1);
  add_unary_row(
      rows, "clamp", [](std::span<const Variable> x) { return ops::clamp(x[0], -0.5, 0.75); },
      [](double x) { return std::min(std::max(x, -0.5), 0.75); }, {floating({3, 4, 5})}, 2);

  const auto pow = [&](const std::string& name, double exponent, double low, double high) {
    add_unary_row(
        rows, name, [exponent](std::span<const Variable> x) { return ops::pow(x[0], exponent); },
        [exponent](double x) { return std::pow(x, exponent); }, {floating({3, 4, 5}, low, high)},
        exponent == 1.5 ? 60 : 0);
  };
  pow("pow_square", 2, -2, 2);
  pow("pow_cube", 3, -2, 2);
  pow("pow_one", 1, -2, 2);
  pow("pow_zero", 0, -2, 2);
  pow("pow_minus_two_of_negatives", -2, -2, -0.5);
  pow("pow_half", 0.5, 0.2, 3);
  pow("pow_fraction", 1.5, 0.2, 3);
  pow("pow_minus_third", -1.0 / 3, 0.2, 3);
}

}  // namespace

std::vector<OpRow> elementwise_rows() {
  std::vector<OpRow> rows;
  add_binary_rows(rows, "add", ops::add, [](double a, double b) { return a + b; });
  add_binary_rows(rows, "subtract", ops::subtract, [](double a, double b) { return a - b; });
  add_binary_rows(rows, "multiply", ops::multiply, [](double a, double b) { return a * b; });
  add_binary_rows(rows, "divide", ops::divide, [](double a, double b) { return a / b; });
  add_unary_rows(rows);
  return rows;
}

}  // namespace tapecache::testing
