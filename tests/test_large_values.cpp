#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/ops/contrastive.h"
#include "tapecache/ops/cross_entropy.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/maxsim.h"
#include "tapecache/ops/normalize.h"

// Values at which a sum, a product or the last digits of one no longer fit its type, on every device that there is.

using namespace tapecache;
using namespace tapecache::testing;

namespace {

using Function = std::function<Variable(std::span<const Variable>)>;

std::vector<Device> devices() {
  std::vector<Device> all{Device::cpu()};
  if (cuda_device_count() > 0) all.push_back(Device::cuda());
  return all;
}

/// Of the inputs, given in f64, on one device and in one type.
struct Result {
  std::vector<double> value;
  std::vector<std::vector<double>> gradients;
};

Result run(const Function& f, const std::vector<Tensor>& inputs, DType dtype, Device device, double seed = 1) {
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
  const Result expected = run(loss, inputs, DType::kFloat64, Device::cpu());
  for (const Device device : devices()) {
    const Result found = run(loss, inputs, DType::kFloat32, device);
    for (std::size_t i = 0; i < inputs.size(); ++i) check_near(found.gradients[i], expected.gradients[i], tolerance);
  }
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

BOOST_AUTO_TEST_CASE(cross_entropy_of_large_logits) {
  for (const double offset : {0.0, 1e4, -1e6, 1e7}) {
    BOOST_TEST_CONTEXT(offset) {
      check_gradients([](std::span<const Variable> x) { return ops::cross_entropy(x[0], Tensor::from({0, 2}, {2})); },
                      {Tensor::from({offset, offset, offset + 3, offset, offset, offset - 1}, {2, 3})}, 1e-6);
    }
  }
}

BOOST_AUTO_TEST_CASE(contrastive_losses_of_large_logits) {
  using kernels::ContrastiveOp;
  for (const ContrastiveOp op : {ContrastiveOp::kRows, ContrastiveOp::kRowsAndColumns}) {
    check_gradients([=](std::span<const Variable> x) { return ops::contrastive_loss(op, x[0], x[1], one(x[0]), {}, {4, 2}); },
                    {far_from_0(6, 3), far_from_0(6, 2)}, 1e-3);
  }
}

BOOST_AUTO_TEST_CASE(maxsim_loss_of_large_scores) {
  check_gradients([](std::span<const Variable> x) { return ops::maxsim_loss(x[0], {}, x[1], {}, one(x[0])); },
                  {far_from_0(6, 3).reshape({6, 1, 2}), far_from_0(6, 2).reshape({6, 1, 2})}, 1e-3);
}

BOOST_AUTO_TEST_CASE(l2_normalize_of_long_rows) {
  const Function normalize = [](std::span<const Variable> x) { return ops::l2_normalize(x[0]); };
  for (const Device device : devices()) {
    for (const auto& [dtype, large] : {std::pair{DType::kFloat32, 1e20}, {DType::kFloat64, 1e200}}) {
      const double tolerance = dtype == DType::kFloat32 ? 1e-6 : 1e-14;
      const Tensor x = Tensor::from({3 * large, 4 * large, 0.0, 1.0}, {2, 2});
      const Result result = run(normalize, {x}, dtype, device);
      check_near(result.value, {0.6, 0.8, 0, 1}, tolerance);
      // (g - y Σ g y) / ‖x‖
      check_near({result.gradients[0][0] * large, result.gradients[0][1] * large}, {0.032, -0.024}, tolerance);
      for (const std::int64_t cols : {1, 100, 3000, 9000}) {
        const std::vector<double> y = run(normalize, {Tensor::full({2, cols}, large, DType::kFloat64)}, dtype, device).value;
        const double expected = 1 / std::sqrt(static_cast<double>(cols));
        check_near(y, std::vector<double>(y.size(), expected), 10 * tolerance);
      }
    }
    const double infinity = std::numeric_limits<double>::infinity();
    const Result result = run(normalize, {Tensor::from({1.0, infinity}, {1, 2})}, DType::kFloat32, device);
    BOOST_TEST(result.value[0] == 0);
    BOOST_TEST(std::isnan(result.value[1]));
  }
}

BOOST_AUTO_TEST_CASE(activations_far_from_0_are_straight) {
  using ops::Activation;
  for (const Device device : devices()) {
    for (const auto& [dtype, most] : {std::pair{DType::kFloat32, 3e38}, {DType::kFloat64, 1e308}}) {
      for (const double large : {100.0, 1e4, 1e13, 1e20, most}) {
        for (const Activation activation :
             {Activation::kQuickGelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu, Activation::kRelu}) {
          const Result result = run([=](std::span<const Variable> x) { return ops::activate(activation, x[0]); },
                                    {Tensor::from({-large, large}, {2})}, dtype, device);
          BOOST_TEST_CONTEXT(static_cast<int>(activation) << " of " << large) {
            check_near(result.gradients[0], {0, 1}, 1e-30);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
