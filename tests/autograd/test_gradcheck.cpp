#include <boost/test/unit_test.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "compare.h"
#include "op_table.h"
#include "tapecache/autograd/gradcheck.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

/// x² with a derivative of the test's choice: dx[i] += derivative(x[i], dy[i], i).
template <class Derivative>
Variable square(const Variable& x, Derivative derivative, bool overwrite = false) {
  std::vector<double> y = doubles(x.value());
  for (double& v : y) v *= v;
  return record("square", Tensor::from(y, x.shape()), {x}, {x.value()}, [=](Backward& context) {
    const double* values = context.saved(0).data<double>();
    const double* dy = context.output_gradient().data<double>();
    GradientTarget dx = context.gradient(0);
    double* to = dx.tensor.mutable_data<double>();
    for (std::int64_t i = 0; i < dx.tensor.numel(); ++i) {
      const double value = derivative(values[i], dy[i], i);
      to[i] = dx.accumulate && !overwrite ? to[i] + value : value;
    }
  });
}

const auto kRight = [](double x, double dy, std::int64_t) { return 2 * x * dy; };

Tensor input() { return random_tensor({3, 3}, DType::kFloat64, 4); }

template <class F>
GradcheckResult check(F f) {
  const std::vector<Tensor> inputs{input(), random_tensor({3, 3}, DType::kFloat64, 5)};
  return gradcheck(f, inputs);
}

template <class F>
void check_accepted(F f) {
  const GradcheckResult result = check(f);
  BOOST_CHECK_MESSAGE(result.passed, result.message);
  BOOST_CHECK(result.message.empty());
  BOOST_CHECK(result.max_absolute_difference <= 1e-6);
}

template <class F>
void check_rejected(F f) {
  const GradcheckResult result = check(f);
  BOOST_CHECK(!result.passed);
  BOOST_CHECK_MESSAGE(result.message.find("element") != std::string::npos, "message: " << result.message);
}

template <class Derivative>
auto square_with(Derivative derivative, bool overwrite = false) {
  return [=](std::span<const Variable> x) { return square(x[0], derivative, overwrite); };
}

/// matmul whose dA is stored transposed.
Variable matmul_transposed_gradient(const Variable& a, const Variable& b) {
  return record("matmul", ops::matmul(a.value(), b.value()).value(), {a, b}, {a.value(), b.value()},
                [](Backward& context) {
                  const Variable dy = context.output_gradient();
                  context.pass(0, ops::matmul(context.saved(1), dy, {false, true}).value());
                  context.pass(1, ops::matmul(context.saved(0), dy, {true, false}).value());
                });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(right_derivatives_pass)

BOOST_AUTO_TEST_CASE(of_one_op) { check_accepted(square_with(kRight)); }

BOOST_AUTO_TEST_CASE(of_an_input_used_twice) {
  check_accepted([](std::span<const Variable> x) { return ops::multiply(square(x[0], kRight), square(x[0], kRight)); });
}

BOOST_AUTO_TEST_CASE(of_a_list_of_inputs) {
  const auto joined = [](std::span<const Variable> x) { return ops::concat({x[0], x[1], x[0]}, 1); };
  const GradcheckResult result =
      gradcheck(joined, {Tensor::from({1.0, -2.0, 3.0, 0.5}, {2, 2}), Tensor::from({4.0, 5.0}, {2, 1})});
  BOOST_TEST(result.passed, result.message);
  const std::function<Variable(std::span<const Variable>)> nothing;
  BOOST_CHECK_THROW(gradcheck(nothing, {Tensor::from({1.0}, {1})}), ValueError);
}

BOOST_AUTO_TEST_CASE(of_two_inputs) {
  check_accepted([](std::span<const Variable> x) { return ops::matmul(square(x[0], kRight), x[1]); });
}

BOOST_AUTO_TEST_CASE(of_what_depends_on_nothing) {
  check_accepted([](std::span<const Variable>) { return Variable(Tensor::full({2}, 1, DType::kFloat64)); });
}

BOOST_AUTO_TEST_CASE(of_an_input_itself) {
  check_accepted([](std::span<const Variable> x) { return x[0]; });
}

BOOST_AUTO_TEST_CASE(inputs_stay_as_they_are) {
  const std::vector<Tensor> inputs{input()};
  gradcheck(square_with(kRight), inputs);
  BOOST_CHECK(same_bits(inputs[0], input()));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(wrong_derivatives_are_rejected)

BOOST_AUTO_TEST_CASE(wrong_sign) {
  check_rejected(square_with([](double x, double dy, std::int64_t) { return -2 * x * dy; }));
}

BOOST_AUTO_TEST_CASE(missing_factor) {
  check_rejected(square_with([](double x, double dy, std::int64_t) { return x * dy; }));
}

BOOST_AUTO_TEST_CASE(slightly_off) {
  check_rejected(square_with([](double x, double dy, std::int64_t) { return 2.001 * x * dy; }));
}

BOOST_AUTO_TEST_CASE(forgotten_cotangent) {
  check_rejected(square_with([](double x, double, std::int64_t) { return 2 * x; }));
}

BOOST_AUTO_TEST_CASE(one_wrong_element) {
  check_rejected(square_with([](double x, double dy, std::int64_t i) { return i == 7 ? 0 : 2 * x * dy; }));
}

BOOST_AUTO_TEST_CASE(not_a_number) {
  check_rejected(square_with([](double, double, std::int64_t) { return std::nan(""); }));
}

BOOST_AUTO_TEST_CASE(nan_in_forward) {
  check_rejected([](std::span<const Variable> x) { return ops::log(ops::scale(ops::multiply(x[0], x[0]), -1)); });
}

BOOST_AUTO_TEST_CASE(forgotten_accumulate) {
  check_rejected(
      [](std::span<const Variable> x) { return ops::add(square(x[0], kRight, true), square(x[0], kRight, true)); });
}

BOOST_AUTO_TEST_CASE(overwritten_residual) {
  check_rejected([](std::span<const Variable> x) {
    const Variable branch = square(x[0], kRight, true);
    return ops::add(x[0], branch);
  });
}

BOOST_AUTO_TEST_CASE(transposed) {
  check_rejected([](std::span<const Variable> x) { return matmul_transposed_gradient(x[0], x[1]); });
}

BOOST_AUTO_TEST_CASE(gradient_never_given) {
  check_rejected([](std::span<const Variable> x) {
    return record("lost", ops::exp(x[0].value()).value(), {x[0]}, {}, [](Backward&) {});
  });
}

BOOST_AUTO_TEST_CASE(gradients_of_two_inputs_exchanged) {
  check_rejected([](std::span<const Variable> x) {
    return record("product", ops::multiply(x[0].value(), x[1].value()).value(), {x[0], x[1]},
                  {x[0].value(), x[1].value()}, [](Backward& context) {
                    const Variable dy = context.output_gradient();
                    context.pass(0, ops::multiply(dy, context.saved(0)).value());
                    context.pass(1, ops::multiply(dy, context.saved(1)).value());
                  });
  });
}

BOOST_AUTO_TEST_CASE(history_cut) {
  check_rejected([](std::span<const Variable> x) { return ops::multiply(detach(x[0]), x[0]); });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(inputs_of_gradcheck)

BOOST_AUTO_TEST_CASE(float32_is_refused) {
  const std::vector<Tensor> inputs{Tensor::zeros({2})};
  BOOST_CHECK_THROW(gradcheck(square_with(kRight), inputs), DTypeError);
}

BOOST_AUTO_TEST_CASE(integers_are_constants) {
  const std::vector<Tensor> inputs{Tensor::full({3}, 2, DType::kInt64), input()};
  const GradcheckResult result = gradcheck(
      [](std::span<const Variable> x) {
        BOOST_CHECK(!x[0].has_history());
        return ops::scale(x[1], x[0].value().slice(0, 1).item());
      },
      inputs);
  BOOST_CHECK_MESSAGE(result.passed, result.message);
}

BOOST_AUTO_TEST_SUITE_END()
