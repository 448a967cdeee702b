#include <cmath>
#include <utility>
#include <vector>

#include "checks.h"
#include "devices.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

// Sums of f32 that are long, or of numbers that differ by little from a large one.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

double relative_error(double found, double expected) {
  return std::isnan(found) ? INFINITY : std::abs(found - expected) / std::abs(expected);
}

/// Gradients of f's arguments, whose output has the gradient `seed`, all on one device.
template <class F>
std::vector<std::vector<double>> gradients_of(const F& f, const std::vector<Tensor>& arguments, const Tensor& seed) {
  Tape tape;
  std::vector<Variable> leaves;
  for (const Tensor& argument : arguments) leaves.push_back(tape.leaf(argument.to(seed.device())));
  {
    const Recording recording(tape);
    const Variable y = f(leaves);
    tape.backward(std::span(&y, 1), std::span(&seed, 1));
  }
  std::vector<std::vector<double>> gradients;
  for (const Variable& leaf : leaves) gradients.push_back(doubles(tape.gradient(leaf)));
  return gradients;
}

Variable layer_norm(const std::vector<Variable>& x) { return ops::layer_norm(x[0], x[1], x[2]); }
Variable log_softmax(const std::vector<Variable>& x) { return ops::log_softmax(x[0]); }

}  // namespace

BOOST_AUTO_TEST_SUITE(long_sums)

BOOST_AUTO_TEST_CASE(means_of_equal_numbers_are_these_numbers, *on_device) {
  const auto value = static_cast<double>(0.1f);
  const std::int64_t count = std::int64_t{1} << (kDevice.is_cpu() ? 24 : 22);
  const Tensor all = Tensor::full({count}, 0.1, DType::kFloat32, kDevice);
  BOOST_TEST(relative_error(ops::mean(all).value().item(), value) <= 1e-6);
  const Tensor columns = all.reshape({count / 8, 8});
  for (const double mean : doubles(ops::mean(columns, 0).value())) BOOST_TEST(relative_error(mean, value) <= 1e-6);
  const Tensor tokens = all.reshape({1, count / 8, 8});
  for (const double mean : doubles(ops::mean_pool(tokens).value())) BOOST_TEST(relative_error(mean, value) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(lengths_and_logsumexps_of_long_lines, *on_device) {
  constexpr std::int64_t kCount = std::int64_t{1} << 20;
  const double length = static_cast<double>(0.1f) * std::sqrt(static_cast<double>(kCount)),
               logsumexp = static_cast<double>(0.1f) + std::log(static_cast<double>(kCount));
  const Tensor row = Tensor::full({kCount, 1}, 0.1, DType::kFloat32, kDevice), pairs = row.reshape({kCount / 2, 2});
  BOOST_TEST(relative_error(ops::norm(row, 0).value().item(), length) <= 1e-6);
  BOOST_TEST(relative_error(ops::logsumexp(row, 0).value().item(), logsumexp) <= 1e-6);
  for (const double half : doubles(ops::norm(pairs, 0).value())) {
    BOOST_TEST(relative_error(half, length / std::sqrt(2)) <= 1e-6);
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_repeated_operands_add_up_all_rows, *on_device) {
  const std::int64_t rows = std::int64_t{1} << (kDevice.is_cpu() ? 20 : 18);
  Tape tape;
  const Variable bias = tape.leaf(Tensor::zeros({8}).to(kDevice)), scalar = tape.leaf(Tensor::scalar(1.0f).to(kDevice));
  {
    const Recording recording(tape);
    const Variable y = (Variable(Tensor::full({rows, 8}, 0.1, DType::kFloat32, kDevice)) + bias) * scalar;
    const Tensor seed = Tensor::full(y.shape(), 0.1, DType::kFloat32, kDevice);
    tape.backward(std::span(&y, 1), std::span(&seed, 1));
  }
  const auto value = static_cast<double>(0.1f), count = static_cast<double>(rows);
  for (const double g : doubles(tape.gradient(bias))) BOOST_TEST(relative_error(g, value * count) <= 1e-6);
  BOOST_TEST(relative_error(tape.gradient(scalar).item(), value * value * count * 8) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(gradients_of_a_row_that_many_read, *on_device) {
  const std::int64_t count = std::int64_t{1} << (kDevice.is_cpu() ? 20 : 18);
  Tape tape;
  const Variable table = tape.leaf(Tensor::zeros({3, 2}).to(kDevice));
  {
    const Recording recording(tape);
    const Variable y = ops::embedding(table, Tensor::full({count}, 1, DType::kInt64));
    const Tensor seed = Tensor::full(y.shape(), 0.1, DType::kFloat32, kDevice);
    tape.backward(std::span(&y, 1), std::span(&seed, 1));
  }
  const std::vector<double> gradient = doubles(tape.gradient(table));
  const double expected = static_cast<double>(0.1f) * static_cast<double>(count);
  for (const std::size_t i : {0, 1, 4, 5}) BOOST_TEST(gradient[i] == 0);
  for (const std::size_t i : {2, 3}) BOOST_TEST(relative_error(gradient[i], expected) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(norms_of_constant_rows_are_zero, *on_device) {
  for (const std::int64_t width : {3, 384, 768, 5000}) {
    const std::int64_t rows = 100000 / width;
    std::vector<float> values;
    for (std::int64_t i = 0; i < rows; ++i) {
      values.insert(values.end(), static_cast<std::size_t>(width), 1000.1f * static_cast<float>(1 + i) / 250.0f);
    }
    const Tensor x = Tensor::from(values, {rows, width}).to(kDevice);
    const Tensor ones = Tensor::full({width}, 1).to(kDevice), zeros = Tensor::zeros({width}).to(kDevice);
    double worst = 0;
    for (const double y : doubles(ops::layer_norm(x, ones, zeros, 1e-12).value())) {
      if (!(std::abs(y) <= worst)) worst = std::abs(y);
    }
    BOOST_TEST(worst == 0);
  }
}

BOOST_AUTO_TEST_CASE(gradients_at_constant_rows_have_no_part_along_them, *on_device) {
  // Of a constant row dx is (g - mean g) / √ε; a mean that is off would add g x̂ of the same size.
  constexpr std::int64_t kWidth = 384;
  const Tensor gradient = random_values({1, kWidth}, 5);
  std::vector<double> expected = doubles(gradient);
  double mean = 0;
  for (const double g : expected) mean += g / static_cast<double>(kWidth);
  for (double& g : expected) g = (g - mean) / std::sqrt(1e-5);
  for (const double constant : {1000.1, 12.3456, -333.3}) {
    Tape tape;
    const Variable x = tape.leaf(Tensor::full({1, kWidth}, constant, DType::kFloat32, kDevice));
    const Tensor seed = gradient.to(DType::kFloat32).to(kDevice);
    {
      const Recording recording(tape);
      const Variable y = ops::layer_norm(x, Tensor::full({kWidth}, 1).to(kDevice), Tensor::zeros({kWidth}).to(kDevice));
      tape.backward(std::span(&y, 1), std::span(&seed, 1));
    }
    BOOST_TEST(max_difference(doubles(tape.gradient(x)), expected) <= 1e-3);  // of 300
  }
}

BOOST_AUTO_TEST_CASE(sums_whose_parts_overflow_have_their_means, *on_device) {
  constexpr double kLarge = 3e38;
  const auto large = static_cast<double>(static_cast<float>(kLarge));
  for (const std::int64_t count : {2, 8, 30, 100, 700, 5000}) {
    // Columns of one sign, and of half and half, and a third that is not large.
    std::vector<float> values;
    for (std::int64_t i = 0; i < count; ++i) {
      values.insert(values.end(),
                    {static_cast<float>(kLarge), static_cast<float>(2 * i < count ? kLarge : -kLarge), 0.1f});
    }
    const Tensor columns = Tensor::from(values, {count, 3}).to(kDevice);
    const Tensor rows = ops::transpose(Variable(columns), 0, 1).value();
    const auto check = [=](const Tensor& means, double factor) {
      const std::vector<double> found = doubles(means);
      BOOST_TEST_CONTEXT(count << " on " << to_string(kDevice)) {
        BOOST_TEST(relative_error(found[0], large * factor) <= 1e-6);
        BOOST_TEST(std::abs(found[1]) <= 1e-6 * large * factor);  // a few are added in f32
        BOOST_TEST(relative_error(found[2], static_cast<double>(0.1f) * factor) <= 1e-6);
      }
    };
    check(ops::mean(columns, 0).value(), 1);
    check(ops::mean(rows, 1).value(), 1);
    check(ops::mean_pool(columns.reshape({1, count, 3})).value(), 1);
    BOOST_TEST(std::abs(ops::sum(rows.slice(1, 2)).value().item()) <= 1e-6 * large * static_cast<double>(count));
    // As gradients of a repeated row, and of repeated elements.
    const double each = 1 / (2 * static_cast<double>(count));
    Tape tape;
    const Variable row = tape.leaf(Tensor::zeros({3}).to(kDevice)),
                   column = tape.leaf(Tensor::zeros({3, 1}).to(kDevice));
    {
      const Recording recording(tape);
      const std::vector<Variable> of_both{Variable(columns) * row, Variable(rows) * column};
      const std::vector<Tensor> seeds{Tensor::full({count, 3}, each, DType::kFloat32, kDevice),
                                      Tensor::full({3, count}, each, DType::kFloat32, kDevice)};
      tape.backward(of_both, seeds);
    }
    check(tape.gradient(row), 0.5);
    check(tape.gradient(column), 0.5);
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_norms_whose_sums_overflow, *on_device) {
  constexpr std::int64_t kRows = 64;
  for (const std::int64_t inner : {1, 40}) {
    // x̂ is ±1, and so is dy / 10²⁰: Σ dy (x - mean) does not fit, Σ dy x̂ does.
    std::vector<float> x, dy;
    for (std::int64_t i = 0; i < kRows * 2 * inner; ++i) {
      const float sign = i / (2 * inner) % 2 == 0 ? 1.0f : -1.0f;
      x.push_back(1e18f * sign);
      dy.push_back(1e20f * sign);
    }
    const Shape shape = inner == 1 ? Shape{kRows, 2} : Shape{kRows, 2, inner};
    const Tensor values = Tensor::from(x, shape).to(kDevice), seed = Tensor::from(dy, shape).to(kDevice);
    const Tensor zeros = Tensor::zeros({2}).to(kDevice), variance = Tensor::full({2}, 1e36, DType::kFloat32, kDevice);
    for (const bool frozen : {false, true}) {
      Tape tape;
      const Variable weight = tape.leaf(Tensor::full({2}, 1).to(kDevice)),
                     bias = tape.leaf(Tensor::zeros({2}).to(kDevice));
      {
        const Recording recording(tape);
        const Variable y =
            frozen ? ops::batch_norm(values, weight, bias, zeros, variance) : ops::batch_norm(values, weight, bias).y;
        tape.backward(std::span(&y, 1), std::span(&seed, 1));
      }
      const double expected = 1e20 * static_cast<double>(kRows * inner);
      for (const double g : doubles(tape.gradient(weight))) BOOST_TEST(relative_error(g, expected) <= 1e-5);
      for (const double g : doubles(tape.gradient(bias))) BOOST_TEST(std::abs(g) <= 1e-6 * expected);
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_layer_norm_whose_sums_overflow, *on_device) {
  constexpr std::int64_t kRows = 64;
  for (const std::int64_t cols : {256, 8192}) {
    // x̂ is 1 in the first half of a row and -1 in the second; so is dy / 10²¹: Σ dy (x - mean) does not fit, Σ dy x̂
    // does.
    std::vector<float> x, dy;
    for (std::int64_t i = 0; i < kRows * cols; ++i) {
      const float sign = i % cols < cols / 2 ? 1.0f : -1.0f;
      x.push_back(1e18f * sign);
      dy.push_back(1e21f * sign);
    }
    const auto gradients =
        gradients_of(layer_norm, {Tensor::from(x, {kRows, cols}), Tensor::full({cols}, 1), Tensor::zeros({cols})},
                     Tensor::from(dy, {kRows, cols}).to(kDevice));
    for (const double g : gradients[0]) BOOST_TEST(std::abs(g) <= 1e-5 * 1e3);
    for (const double g : gradients[1]) BOOST_TEST(relative_error(g, 1e21 * kRows) <= 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_rows_whose_partial_sums_overflow, *on_device) {
  constexpr float kLarge = 3e38f;
  // Of many rows a device's warp takes several, and adds up their part of the columns' sums.
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{64, 256}, {64, 8192}, {8192, 4}}) {
    // In rows and in columns the first half is large and the second as much below 0.
    std::vector<float> x, dy;
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < cols; ++j) {
        x.push_back(j % 2 == 0 ? 1.0f : -1.0f);
        dy.push_back((i < rows / 2) == (j < cols / 2) ? kLarge : -kLarge);
      }
    }
    const Tensor values = Tensor::from(x, {rows, cols}), seed = Tensor::from(dy, {rows, cols}).to(kDevice);
    const auto of_norm = gradients_of(layer_norm, {values, Tensor::full({cols}, 1), Tensor::zeros({cols})}, seed);
    const auto of_logits = gradients_of(log_softmax, {values}, seed);
    for (const double g : of_norm[1]) BOOST_TEST(g == 0);
    for (const double g : of_norm[2]) BOOST_TEST(g == 0);
    for (std::size_t i = 0; i < dy.size(); ++i) {
      BOOST_TEST(relative_error(of_norm[0][i], static_cast<double>(dy[i])) <= 1e-4);
      BOOST_TEST(relative_error(of_logits[0][i], static_cast<double>(dy[i])) <= 1e-4);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
