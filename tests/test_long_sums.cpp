#include <cmath>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/operators.h"
#include "tapecache/ops/pooling.h"
#include "tapecache/ops/reduce.h"

// Sums of f32 that are long, or of numbers that differ by little from a large one.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

double relative_error(double found, double expected) {
  return std::isnan(found) ? INFINITY : std::abs(found - expected) / std::abs(expected);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(long_sums)

BOOST_AUTO_TEST_CASE(means_of_equal_numbers_are_these_numbers) {
  constexpr std::int64_t kCount = std::int64_t{1} << 24;
  const Tensor all = Tensor::full({kCount}, 0.1);
  const auto value = static_cast<double>(0.1f);
  BOOST_TEST(relative_error(ops::mean(all).value().item(), value) <= 1e-6);
  const Tensor columns = all.reshape({kCount / 8, 8});
  for (const double mean : doubles(ops::mean(columns, 0).value())) BOOST_TEST(relative_error(mean, value) <= 1e-6);
  const Tensor tokens = all.reshape({1, kCount / 8, 8});
  for (const double mean : doubles(ops::mean_pool(tokens).value())) BOOST_TEST(relative_error(mean, value) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(gradients_of_repeated_operands_add_up_all_rows) {
  constexpr std::int64_t kRows = std::int64_t{1} << 20;
  Tape tape;
  const Variable bias = tape.leaf(Tensor::zeros({8})), scalar = tape.leaf(Tensor::scalar(1.0f));
  {
    const Recording recording(tape);
    const Variable y = (Variable(Tensor::full({kRows, 8}, 0.1)) + bias) * scalar;
    const Tensor seed = Tensor::full(y.shape(), 0.1);
    tape.backward(std::span(&y, 1), std::span(&seed, 1));
  }
  const auto value = static_cast<double>(0.1f), rows = static_cast<double>(kRows);
  for (const double g : doubles(tape.gradient(bias))) BOOST_TEST(relative_error(g, value * rows) <= 1e-6);
  BOOST_TEST(relative_error(tape.gradient(scalar).item(), value * value * rows * 8) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(norms_of_constant_rows_are_zero) {
  constexpr std::int64_t kWidth = 384;
  std::vector<float> values;
  for (int i = 0; i < 500; ++i) values.insert(values.end(), kWidth, 1000.1f * static_cast<float>(1 + i) / 250.0f);
  const Tensor x = Tensor::from(values, {500, kWidth});
  const Tensor gamma = Tensor::full({kWidth}, 1), beta = Tensor::zeros({kWidth});
  double worst = 0;
  for (const double y : doubles(ops::layer_norm(x, gamma, beta, 1e-12).value())) {
    if (!(std::abs(y) <= worst)) worst = std::abs(y);
  }
  BOOST_TEST(worst == 0);
}

BOOST_AUTO_TEST_SUITE_END()
