#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "checks.h"
#include "devices.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/contrastive.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/maxsim.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

// Values at which a sum, a product or the last digits of one no longer fit its type, on the device under test.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

using Function = std::function<Variable(std::span<const Variable>)>;

/// Of the inputs, given in f64, on one device and in one type.
struct Result {
  std::vector<double> value;
  std::vector<std::vector<double>> gradients;
};

Result run_function(const Function& f, const std::vector<Tensor>& inputs, DType dtype, Device device, double seed = 1) {
  Tape tape;
  std::vector<Variable> leaves;
  for (const Tensor& input : inputs) leaves.push_back(tape.leaf(input.to(dtype).to(device)));
  const Variable y = [&] {
    const Recording recording(tape);
    return f(leaves);
  }();
  const Tensor cotangent = Tensor::full(y.shape(), seed, dtype, device);
  tape.backward(std::span(&y, 1), std::span(&cotangent, 1));
  Result result{doubles(y.value()), {}};
  for (const Variable& leaf : leaves) result.gradients.push_back(doubles(tape.gradient(leaf)));
  return result;
}

void check_near(const std::vector<double>& found, const std::vector<double>& expected, double tolerance) {
  BOOST_REQUIRE_EQUAL(found.size(), expected.size());
  std::size_t wrong = 0;
  while (wrong < found.size() && std::abs(found[wrong] - expected[wrong]) <= tolerance) ++wrong;
  if (wrong < found.size()) BOOST_ERROR("element " << wrong << ": " << found[wrong] << ", not " << expected[wrong]);
}

/// That f32, which holds the logits exactly, has the gradients of f64.
void check_gradients(const Function& loss, const std::vector<Tensor>& inputs, double tolerance) {
  const Result expected = run_function(loss, inputs, DType::kFloat64, Device::cpu());
  const Result found = run_function(loss, inputs, DType::kFloat32, kDevice);
  for (std::size_t i = 0; i < inputs.size(); ++i) check_near(found.gradients[i], expected.gradients[i], tolerance);
}

/// Rows (1000, i mod period): products of them differ by little.
Tensor far_from_0(std::int64_t rows, std::int64_t period) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < rows; ++i) values.insert(values.end(), {1000, static_cast<double>(i % period)});
  return Tensor::from(values, {rows, 2});
}

/// A scale of the kind of x.
Tensor one(const Variable& x) { return Tensor::full({}, 1, x.dtype(), x.device()); }

}  // namespace

BOOST_AUTO_TEST_SUITE(large_values)

BOOST_AUTO_TEST_CASE(cross_entropy_of_large_logits, *on_device) {
  for (const double offset : {0.0, 1e4, -1e6, 1e7}) {
    BOOST_TEST_CONTEXT(offset) {
      check_gradients(
          [](std::span<const Variable> x) {
            return ops::cross_entropy(x[0], Tensor::from({0, 2}, {2}));
          },
          {Tensor::from({offset, offset, offset + 3, offset, offset, offset - 1}, {2, 3})}, 1e-6);
    }
  }
}

BOOST_AUTO_TEST_CASE(contrastive_losses_of_large_logits, *on_device) {
  using kernels::ContrastiveOp;
  for (const ContrastiveOp op : {ContrastiveOp::kRows, ContrastiveOp::kRowsAndColumns}) {
    check_gradients(
        [=](std::span<const Variable> x) {
          return ops::contrastive_loss(op, x[0], x[1], one(x[0]), {}, {4, 2});
        },
        {far_from_0(6, 3), far_from_0(6, 2)}, 1e-3);
  }
}

BOOST_AUTO_TEST_CASE(sigmoid_loss_of_certain_pairs_keeps_its_digits, *on_device) {
  // Logits of 30 for pairs and -30 for others, which f32 holds: 36 losses of log(1 + e⁻³⁰) over 6 rows.
  const Function loss = [](std::span<const Variable> x) {
    return ops::contrastive_loss(kernels::ContrastiveOp::kSigmoid, x[0], x[1], x[2], x[3], {4, 2});
  };
  std::vector<double> rows(36);
  for (std::size_t i = 0; i < 6; ++i) rows[7 * i] = 1;
  const Tensor one_hot = Tensor::from(rows, {6, 6});
  const std::vector<Tensor> inputs{one_hot, one_hot, Tensor::scalar(60.0), Tensor::scalar(-30.0)};
  const double each = std::exp(-30.0);  // to 1e-13
  const Result exact = run_function(loss, inputs, DType::kFloat64, Device::cpu());
  BOOST_TEST(std::abs(exact.value[0] - 6 * each) <= 1e-12 * each);
  BOOST_TEST(std::abs(exact.gradients[2][0] + each) <= 1e-12 * each);
  const Result found = run_function(loss, inputs, DType::kFloat32, kDevice);
  check_near(found.value, exact.value, 1e-5 * each);
  for (std::size_t i = 0; i < inputs.size(); ++i) check_near(found.gradients[i], exact.gradients[i], 1e-4 * each);
}

BOOST_AUTO_TEST_CASE(maxsim_loss_of_large_scores, *on_device) {
  check_gradients([](std::span<const Variable> x) { return ops::maxsim_loss(x[0], {}, x[1], {}, one(x[0])); },
                  {far_from_0(6, 3).reshape({6, 1, 2}), far_from_0(6, 2).reshape({6, 1, 2})}, 1e-3);
}

BOOST_AUTO_TEST_CASE(l2_normalize_of_long_rows, *on_device) {
  const Function normalize = [](std::span<const Variable> x) { return ops::l2_normalize(x[0]); };
  for (const auto& [dtype, large] : {std::pair{DType::kFloat32, 1e20}, {DType::kFloat64, 1e200}}) {
    const double tolerance = dtype == DType::kFloat32 ? 1e-6 : 1e-14;
    const Tensor x = Tensor::from({3 * large, 4 * large, 0.0, 1.0}, {2, 2});
    const Result result = run_function(normalize, {x}, dtype, kDevice);
    check_near(result.value, {0.6, 0.8, 0, 1}, tolerance);
    // (g - y Σ g y) / ‖x‖
    check_near({result.gradients[0][0] * large, result.gradients[0][1] * large}, {0.032, -0.024}, tolerance);
    for (const std::int64_t cols : {1, 100, 3000, 9000}) {
      const std::vector<double> y =
          run_function(normalize, {Tensor::full({2, cols}, large, DType::kFloat64)}, dtype, kDevice).value;
      const double expected = 1 / std::sqrt(static_cast<double>(cols));
      check_near(y, std::vector<double>(y.size(), expected), 10 * tolerance);
    }
  }
  const double infinity = std::numeric_limits<double>::infinity();
  const Result result = run_function(normalize, {Tensor::from({1.0, infinity}, {1, 2})}, DType::kFloat32, kDevice);
  BOOST_TEST(result.value[0] == 0);
  BOOST_TEST(std::isnan(result.value[1]));
}

BOOST_AUTO_TEST_CASE(rms_norm_of_large_rows, *on_device) {
  const Function normalize = [](std::span<const Variable> x) { return ops::rms_norm(x[0], x[1]); };
  for (const auto& [dtype, large] : {std::pair{DType::kFloat32, 1e20}, {DType::kFloat64, 1e200}}) {
    const double tolerance = dtype == DType::kFloat32 ? 1e-6 : 1e-14;
    const Tensor x = Tensor::from({1 * large, 7 * large}, {1, 2});
    const Result result = run_function(normalize, {x, Tensor::full({2}, 1, DType::kFloat64)}, dtype, kDevice);
    check_near(result.value, {0.2, 1.4}, tolerance);
    // (g - y mean(g y)) / (5 · large)
    check_near({result.gradients[0][0] * large, result.gradients[0][1] * large}, {0.168, -0.024}, tolerance);
    for (const std::int64_t cols : {1, 100, 3000, 9000}) {
      const Tensor row = Tensor::full({2, cols}, large, DType::kFloat64),
                   ones = Tensor::full({cols}, 1, DType::kFloat64);
      const std::vector<double> y = run_function(normalize, {row, ones}, dtype, kDevice).value;
      check_near(y, std::vector<double>(y.size(), 1), 10 * tolerance);
    }
  }
}

BOOST_AUTO_TEST_CASE(layer_norm_of_large_rows, *on_device) {
  const Function norm = [](std::span<const Variable> x) { return ops::layer_norm(x[0], x[1], x[2]); };
  const std::vector<double> row{3, 4, 0, -7};  // of mean 0 and variance 18.5
  for (const auto& [dtype, large] : {std::pair{DType::kFloat32, 0x1p70}, {DType::kFloat64, 0x1p550}}) {
    const double tolerance = dtype == DType::kFloat32 ? 1e-6 : 1e-14;
    std::vector<double> values, expected;
    for (const double v : row) {
      values.push_back(v * large);
      expected.push_back(v / std::sqrt(18.5));
    }
    const Tensor x = Tensor::from(values, {1, 4}), weight = Tensor::from({1.0, 2.0, 3.0, 4.0}, {4});
    const Tensor ones = Tensor::full({4}, 1, DType::kFloat64), zeros = Tensor::zeros({4}, DType::kFloat64);
    const Result result = run_function(norm, {x, ones, zeros}, dtype, kDevice);
    check_near(result.value, expected, tolerance);
    check_near(result.gradients[1], expected, tolerance);
    // (g γ - mean g γ - x̂ mean g γ x̂) / σ
    const Result steep = run_function(norm, {x, weight, zeros}, dtype, kDevice);
    double along = 0;
    for (std::size_t i = 0; i < 4; ++i) along += static_cast<double>(i + 1) * expected[i] / 4;
    for (std::size_t i = 0; i < 4; ++i) {
      const double slope = (static_cast<double>(i + 1) - 2.5 - expected[i] * along) / std::sqrt(18.5);
      BOOST_TEST(std::abs(steep.gradients[0][i] * large - slope) <= tolerance);
    }
  }
}

BOOST_AUTO_TEST_CASE(batch_norm_of_squares_that_overflow, *on_device) {
  // The largest square does not fit f32, their mean over 64 does; the mean of the other channel is large.
  std::vector<double> values;
  for (int i = 0; i < 64; ++i) values.insert(values.end(), {i == 5 ? 0x1p64 : 0, 0x1p62 * (i % 2 == 0 ? 3 : 1)});
  const Tensor x = Tensor::from(values, {64, 2}), one = Tensor::full({2}, 1, DType::kFloat64);
  std::vector<double> expected;
  for (int i = 0; i < 64; ++i) {
    // (1 - 1/64) / √(63 / 64²), and -1/64 of the same
    expected.insert(expected.end(), {(i == 5 ? 63 : -1) / std::sqrt(63.0), i % 2 == 0 ? 1.0 : -1.0});
  }
  const Result result = run_function([](std::span<const Variable> v) { return ops::batch_norm(v[0], v[1], v[1]).y; },
                                     {x, one}, DType::kFloat32, kDevice);
  for (std::size_t i = 0; i < expected.size(); ++i) BOOST_TEST(std::abs(result.value[i] - 1 - expected[i]) <= 1e-5);
}

BOOST_AUTO_TEST_CASE(batch_norm_by_given_statistics_far_from_x, *on_device) {
  // x - mean does not fit f32, and neither do the terms of the weight's gradient; what they are scaled to does.
  const Tensor mean = Tensor::from({-2e38f, 1.0f}, {2}), variance = Tensor::from({1e38f, 4.0f}, {2});
  const Tensor weight = Tensor::from({2.0, 1.0}, {2}), bias = Tensor::from({0.5, 0.0}, {2});
  const std::vector<double> by_row{3e38, 1, -3e38, 5, 2e38, 3}, by_channel{3e38, -3e38, 2e38, 1, 5, 3};
  for (const bool side_by_side : {false, true}) {
    const Tensor x = side_by_side ? Tensor::from(by_channel, {1, 2, 3}) : Tensor::from(by_row, {3, 2});
    const Function norm = [&](std::span<const Variable> v) {
      return ops::batch_norm(v[0], v[1], v[2], mean.to(kDevice), variance.to(kDevice), 1e-5);
    };
    const Result found = run_function(norm, {x, weight, bias}, DType::kFloat32, kDevice, 3);
    const std::vector<double> first{1e20, -2e19, 8e19}, second{0, 2, 1};  // 2 (x - mean) / 1e19, and ε left out
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t at = side_by_side ? i : 2 * i, next = side_by_side ? 3 + i : 2 * i + 1;
      check_near({found.value[at], found.value[next]}, {first[i], second[i]}, 1e14);
      check_near({found.value[next]}, {second[i]}, 1e-5);
      check_near({found.gradients[0][at]}, {6e-19}, 1e-24);
      check_near({found.gradients[0][next]}, {1.5}, 1e-5);
    }
    check_near({found.gradients[1][0]}, {2.4e20}, 1e14);  // 3 (5 - 1 + 4)·10³⁸ / 10¹⁹
    check_near({found.gradients[1][1]}, {9}, 1e-4);
    check_near({found.gradients[2][0], found.gradients[2][1]}, {9, 9}, 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(batch_norm_of_a_variance_that_overflows, *on_device) {
  // Of the first channel the variance does not fit the type, nor do distances from its mean: it is normalised to 0.
  const Function norm = [](std::span<const Variable> v) { return ops::batch_norm(v[0], v[1], v[2]).y; };
  const Tensor weight = Tensor::from({2.0, 1.0}, {2}), bias = Tensor::from({0.5, 0.0}, {2});
  for (const auto& [dtype, most] :
       {std::pair{DType::kFloat32, std::numeric_limits<float>::max() * 1.0}, {DType::kFloat64, 1e300}}) {
    const std::vector<double> by_row{most, 1, -most, -1, -most, 1, 7, -1, 3, 1, 0, -1}, ones{1, -1, 1, -1, 1, -1};
    std::vector<double> by_channel;  // the same with three values of a channel side by side
    for (const std::size_t first : {0, 6}) {
      for (const std::size_t channel : {0, 1}) {
        for (std::size_t i = first; i < first + 6; i += 2) by_channel.push_back(by_row[i + channel]);
      }
    }
    for (const bool side_by_side : {false, true}) {
      const Tensor x = side_by_side ? Tensor::from(by_channel, {2, 2, 3}) : Tensor::from(by_row, {6, 2});
      for (const double seed : {1.0, 1e30}) {
        const Result found = run_function(norm, {x, weight, bias}, dtype, kDevice, seed);
        std::vector<double> of_first, of_second, gradient;
        for (std::size_t i = 0; i < 12; ++i) {
          const bool is_first = side_by_side ? i / 3 % 2 == 0 : i % 2 == 0;
          (is_first ? of_first : of_second).push_back(found.value[i]);
          if (is_first) gradient.push_back(found.gradients[0][i]);
        }
        check_near(of_first, std::vector<double>(6, 0.5), 0);
        check_near(of_second, ones, 1e-5);  // and ε = 1e-5
        check_near(gradient, std::vector<double>(6, 0), 0);
        check_near({found.gradients[1][0]}, {0}, 0);
        check_near({found.gradients[2][0]}, {6 * seed}, 1e-6 * seed);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(attention_of_large_scores, *on_device) {
  const Function attend = [](std::span<const Variable> x) { return ops::attention(x[0], 1); };
  // Queries (size, i mod 3), keys (size, i mod 2), values (i, 1): scores differ by little from size².
  for (const double size : {100.0, 1e3, 3e5}) {
    std::vector<double> values;
    for (int i = 0; i < 6; ++i) values.insert(values.end(), {size, i % 3 * 1.0, size, i % 2 * 1.0, i * 1.0, 1});
    const bool held = size < 1e4;  // beyond, f32 does not tell the scores apart
    if (held) check_gradients(attend, {Tensor::from(values, {1, 6, 6})}, size * 1e-5);
    const Result exact = run_function(attend, {Tensor::from(values, {1, 6, 6})}, DType::kFloat64, Device::cpu());
    const Result found = run_function(attend, {Tensor::from(values, {1, 6, 6})}, DType::kFloat32, kDevice);
    for (std::size_t i = 1; i < 12; i += 2) BOOST_TEST(std::abs(found.value[i] - 1) <= 1e-6);  // weights add up to 1
    if (held) check_near(found.value, exact.value, 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(gelu_of_negative_numbers_keeps_its_digits, *on_device) {
  const Function gelu = [](std::span<const Variable> x) { return ops::gelu(x[0]); };
  for (const double x : {-1.0, -3.5, -6.0, -9.0}) {
    const double value = 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    const double slope =
        0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * std::acos(-1.0));
    const Result result = run_function(gelu, {Tensor::from({x}, {1})}, DType::kFloat32, kDevice);
    check_near(result.value, {value}, 3e-6 * std::abs(value));
    check_near(result.gradients[0], {slope}, 3e-5 * std::abs(slope));
  }
}

BOOST_AUTO_TEST_CASE(activations_far_from_0_are_straight, *on_device) {
  using ops::Activation;
  for (const auto& [dtype, most] : {std::pair{DType::kFloat32, 3e38}, {DType::kFloat64, 1e308}}) {
    for (const double large : {100.0, 1e4, 1e13, 1e20, most}) {
      for (const Activation activation :
           {Activation::kQuickGelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu, Activation::kRelu}) {
        const Result result = run_function([=](std::span<const Variable> x) { return ops::activate(activation, x[0]); },
                                           {Tensor::from({-large, large}, {2})}, dtype, kDevice);
        BOOST_TEST_CONTEXT(static_cast<int>(activation) << " of " << large) {
          check_near(result.gradients[0], {0, 1}, 1e-30);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
