#include <cmath>
#include <functional>

#include "checks.h"
#include "op_table.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

template <class F>
std::vector<double> gradient_of_sum(const Tensor& x, F f) {
  Tape tape;
  const Variable leaf = tape.leaf(x);
  const Recording recording(tape);
  tape.backward(ops::sum(f(leaf)));
  return doubles(tape.gradient(leaf));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(ties)

BOOST_AUTO_TEST_CASE(max_gives_the_gradient_to_the_first) {
  const Tensor x = Tensor::from<double>({1, 3, 3, 2, 2, 2}, {2, 3});
  check_equal(gradient_of_sum(x, [](const Variable& v) { return ops::max(v, 1); }), {0, 1, 0, 1, 0, 0});
  check_equal(gradient_of_sum(x, [](const Variable& v) { return ops::max(v, 0); }), {0, 1, 1, 1, 0, 0});
}

BOOST_AUTO_TEST_CASE(max_pool_gives_the_gradient_to_the_first_valid) {
  const Tensor x = Tensor::from<double>({5, 4, 4, 4}, {1, 4, 1});
  check_equal(gradient_of_sum(x, [](const Variable& v) { return ops::max_pool(v); }), {1, 0, 0, 0});
  const Tensor valid = Tensor::from<double>({0, 0, 1, 1}, {1, 4}).to(DType::kBool);
  check_equal(gradient_of_sum(x, [&](const Variable& v) { return ops::max_pool(v, valid); }), {0, 0, 1, 0});
}

BOOST_AUTO_TEST_CASE(clamp_passes_the_gradient_inside_only) {
  const Tensor x = vector_of({-2, 0.5, 3});
  check_equal(gradient_of_sum(x, [](const Variable& v) { return ops::clamp(v, 0, 1); }), {0, 1, 0});
}

BOOST_AUTO_TEST_CASE(relu_has_gradient_0_at_0) {
  check_equal(gradient_of_sum(vector_of({-1, 0, 2}), ops::relu), {0, 0, 1});
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(infinities)

BOOST_AUTO_TEST_CASE(logsumexp_of_nothing_but_minus_infinity) {
  const Tensor x = Tensor::from<double>({-kInfinity, -kInfinity, 0, -kInfinity}, {2, 2});
  check_equal(doubles(ops::logsumexp(x, 1).value()), {-kInfinity, 0});
  check_equal(gradient_of_sum(x.slice(1, 2), [](const Variable& v) { return ops::logsumexp(v, 1); }), {1, 0});
}

BOOST_AUTO_TEST_CASE(softmax_gives_minus_infinity_no_weight) {
  const Tensor x = vector_of({-kInfinity, 0, 0});
  check_equal(doubles(ops::softmax(x).value()), {0, 0.5, 0.5});
  const std::vector<double> log = doubles(ops::log_softmax(x).value());
  BOOST_CHECK(log[0] == -kInfinity);
  BOOST_CHECK(std::abs(log[1] + std::log(2.0)) <= 1e-12);
}

BOOST_AUTO_TEST_CASE(cross_entropy_with_an_impossible_class) {
  const Tensor x = Tensor::from<double>({0, -kInfinity, 0}, {1, 3});
  const Tensor target = Tensor::from<std::int64_t>({0}, {1});
  BOOST_CHECK(std::abs(ops::cross_entropy(x, target).value().item() - std::log(2.0)) <= 1e-12);
  const std::vector<double> g =
      gradient_of_sum(x, [&](const Variable& v) { return ops::cross_entropy(v, target, ops::Reduction::kNone); });
  BOOST_CHECK(max_difference(g, std::vector<double>{-0.5, 0, 0.5}) <= 1e-12);
}

BOOST_AUTO_TEST_CASE(distances_of_what_does_not_fit) {
  const Tensor three = vector_of({1, 2, 3}), two = vector_of({1, 2});
  BOOST_CHECK_EXCEPTION(ops::distance(three, two), ShapeError, says({"distance", "[3]", "[2]"}));
  BOOST_CHECK_EXCEPTION(ops::distance(three, three.to(DType::kFloat32)), DTypeError, says({"distance", "float32"}));
}

BOOST_AUTO_TEST_CASE(equal_points_pull_at_nothing) {
  const Tensor point = vector_of({1, 2, 3});
  const auto hinge = [&](const Variable& v) { return ops::relu(ops::distance(v, point) - 1.0); };
  check_equal(gradient_of_sum(point, hinge), {0, 0, 0});
  check_equal(gradient_of_sum(point, [&](const Variable& v) { return ops::distance(v, point); }), {0, 0, 0});
  check_equal(gradient_of_sum(point, [&](const Variable& v) { return ops::sqrt(ops::distance(v, point)); }), {0, 0, 0});
  // By hand the derivative of the root is infinite, and 0 times that NaN, as IEEE 754 has it.
  const auto by_hand = [&](const Variable& v) {
    const Variable d = v - point;
    return ops::relu(ops::sqrt(ops::sum(d * d)) - 1.0);
  };
  BOOST_CHECK(std::isnan(gradient_of_sum(point, by_hand)[0]));
}

BOOST_AUTO_TEST_CASE(quotients_whose_divisor_has_no_square) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const bool is_float = dtype == DType::kFloat32;
    for (const double b : {is_float ? 0x1p100 : 0x1p600, is_float ? 0x1p-100 : 0x1p-600}) {
      const Tensor a = Tensor::full({1}, b * 1.5, dtype);
      const auto quotient = [&](const Variable& v) { return ops::divide(a, v); };
      check_equal(gradient_of_sum(Tensor::full({1}, b, dtype), quotient), {-1.5 / b});
    }
  }
}

BOOST_AUTO_TEST_CASE(an_infinite_gradient_stops_where_the_derivative_is_0) {
  // The derivative of the logarithm at 0 is infinite; 0 times that would be NaN.
  check_equal(gradient_of_sum(vector_of({-1}), [](const Variable& v) { return ops::log(ops::relu(v)); }), {0});
  check_equal(gradient_of_sum(vector_of({-1}), [](const Variable& v) { return ops::log(ops::clamp(v, 0, 1)); }), {0});
}

BOOST_AUTO_TEST_CASE(logarithms_of_subnormal_numbers_have_a_slope) {
  const auto little = [](const Variable& v) { return ops::scale(ops::log(v), 0x1p-20); };
  check_equal(gradient_of_sum(Tensor::full({1}, 0x1p-140), little), {0x1p120});
  check_equal(gradient_of_sum(Tensor::full({1}, 0x1p-1040, DType::kFloat64), little), {0x1p1020});
}

BOOST_AUTO_TEST_CASE(given_statistics_have_finite_slopes_everywhere) {
  const Tensor one = Tensor::full({1}, 1, DType::kFloat64), two = Tensor::full({1}, 2, DType::kFloat64),
               zero = Tensor::zeros({1}, DType::kFloat64);
  check_equal(gradient_of_sum(Tensor::from<double>({kInfinity, 3, -kInfinity}, {3, 1}),
                              [&](const Variable& v) { return ops::batch_norm(v, two, zero, zero, one, 3.0); }),
              {1, 1, 1});
}

BOOST_AUTO_TEST_CASE(statistics_of_values_whose_sum_overflows) {
  // In f32 the variance is infinite, so that what is left is the bias, as it is in PyTorch.
  const Tensor x = Tensor::from<double>({3e38, 3e38, 3e38, 1e38}, {4, 1}).to(DType::kFloat32);
  const auto y = ops::batch_norm(x, Tensor::full({1}, 1), Tensor::full({1}, 0.5));
  check_equal(y.y.value(), {0.5, 0.5, 0.5, 0.5});
  BOOST_CHECK(std::abs(doubles(y.mean)[0] / 2.5e38 - 1) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(lengths_neither_overflow_nor_vanish) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const bool is_float = dtype == DType::kFloat32;
    for (const double size : {is_float ? 0x1p124 : 0x1p1020, is_float ? 0x1p-149 : 0x1p-1074, 1.0}) {
      const Tensor rows = Tensor::from<double>({3 * size, 0, -4 * size, 0, 0, 0}, {2, 3}).to(dtype);
      check_equal(ops::norm(rows, 1).value(), {5 * size, 0});
      check_equal(ops::norm(ops::transpose(rows, 0, 1), 0).value(), {5 * size, 0});
      check_equal(ops::norm(rows, 0).value(), {3 * size, 0, 4 * size});
      const auto gradient = gradient_of_sum(rows, [](const Variable& v) { return ops::norm(v, 1); });
      BOOST_CHECK_LE(max_difference(gradient, std::vector<double>{0.6, 0, -0.8, 0, 0, 0}), 1e-7);
    }
    const Tensor odd = Tensor::from<double>({1, kInfinity, kInfinity, kNaN}, {2, 2}).to(dtype);
    const std::vector<double> lengths = doubles(ops::norm(odd, 1).value());
    BOOST_CHECK(lengths[0] == kInfinity && std::isnan(lengths[1]));
  }
}

BOOST_AUTO_TEST_CASE(invalid_tokens_may_hold_anything) {
  const Tensor valid = Tensor::from<double>({1, 0, 1}, {1, 3}).to(DType::kBool);
  const Tensor x = Tensor::from<double>({1, kNaN, 3}, {1, 3, 1});
  check_equal(doubles(ops::mean_pool(x, valid).value()), {2});
  check_equal(doubles(ops::max_pool(x, valid).value()), {3});
  check_equal(doubles(ops::masked_softmax(vector_of({0, kNaN, 0}), valid.reshape({3})).value()), {0.5, 0, 0.5});
}

BOOST_AUTO_TEST_CASE(nan_is_not_hidden) {
  struct Case {
    const char* name;
    std::function<Variable(const Variable&)> op;
  };
  const std::vector<Case> cases{
      {"relu", ops::relu},
      {"gelu", ops::gelu},
      {"gelu_tanh", ops::gelu_tanh},
      {"quick_gelu", ops::quick_gelu},
      {"silu", ops::silu},
      {"softplus", ops::softplus},
      {"sigmoid", ops::sigmoid},
      {"tanh", ops::tanh},
      {"erf", ops::erf},
      {"exp", ops::exp},
      {"log", ops::log},
      {"sqrt", ops::sqrt},
      {"rsqrt", ops::rsqrt},
      {"pow", [](const Variable& x) { return ops::pow(x, 2); }},
      {"clamp", [](const Variable& x) { return ops::clamp(x, -1, 1); }},
      {"softmax", ops::softmax},
      {"log_softmax", ops::log_softmax},
      {"l2_normalize", [](const Variable& x) { return ops::l2_normalize(x); }},
      {"max", [](const Variable& x) { return ops::max(x, 0); }},
      {"sum", [](const Variable& x) { return ops::sum(x, 0); }},
      {"logsumexp", [](const Variable& x) { return ops::logsumexp(x, 0); }},
      {"norm", [](const Variable& x) { return ops::norm(x, 0); }},
      {"norm of columns",
       [](const Variable& x) {
         return ops::norm(ops::reshape(x, {x.size(0), 1}), 0);
       }},
      {"max_pool",
       [](const Variable& x) {
         return ops::max_pool(ops::reshape(x, {1, x.size(0), 1}));
       }},
      {"mean_pool",
       [](const Variable& x) {
         return ops::mean_pool(ops::reshape(x, {1, x.size(0), 1}));
       }},
  };
  for (const Case& c : cases) {
    for (const std::size_t at : {0, 1, 17, 36}) {
      std::vector<double> values(37, 0.5);
      values[at] = kNaN;
      for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
        const Tensor y = c.op(vector_of(values).to(dtype)).value();
        BOOST_CHECK_MESSAGE(first_non_finite(y) >= 0,
                            c.name << " hides a NaN at element " << at << " in " << name(dtype));
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(views)

BOOST_AUTO_TEST_CASE(reshape_and_slices_of_axis_0_share_storage) {
  const Variable x = random_tensor({4, 3}, DType::kFloat32, 1);
  BOOST_CHECK(ops::reshape(x, {12}).value().shares_storage(x.value()));
  BOOST_CHECK(ops::slice(x, 0, 1, 3).value().shares_storage(x.value()));
}

BOOST_AUTO_TEST_CASE(ops_read_views_at_their_offset) {
  const Tensor x = random_tensor({6, 4}, DType::kFloat64, 1);
  const Tensor view = x.slice(2, 5), copy = view.clone();
  BOOST_CHECK(same_bits(ops::exp(view).value(), ops::exp(copy).value()));
  BOOST_CHECK(same_bits(ops::softmax(view).value(), ops::softmax(copy).value()));
  BOOST_CHECK(same_bits(ops::transpose(view, 0, 1).value(), ops::transpose(copy, 0, 1).value()));
  BOOST_CHECK(same_bits(ops::add(view, x.slice(0, 1)).value(), ops::add(copy, x.slice(0, 1).clone()).value()));
  BOOST_CHECK(same_bits(ops::l2_normalize(view).value(), ops::l2_normalize(copy).value()));
}

BOOST_AUTO_TEST_CASE(inputs_are_left_unchanged) {
  for (const OpRow& row : op_rows()) {
    const std::vector<Tensor> inputs = make_inputs(row.inputs, DType::kFloat32);
    const std::vector<Tensor> before = make_inputs(row.inputs, DType::kFloat32);
    Tape tape;
    std::vector<Variable> variables;
    for (const Tensor& t : inputs) variables.push_back(is_floating(t.dtype()) ? tape.leaf(t) : Variable(t));
    const Recording recording(tape);
    const Variable y = row.op(variables);
    const Tensor cotangent = random_tensor(y.shape(), y.dtype(), 9);
    const Tensor kept = cotangent.clone();
    if (tape.holds(y)) tape.backward(std::span(&y, 1), std::span(&cotangent, 1));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      BOOST_CHECK_MESSAGE(same_bits(inputs[i], before[i]), row.name << " changed input " << i);
    }
    BOOST_CHECK_MESSAGE(same_bits(cotangent, kept), row.name << " changed its cotangent");
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(joined)

BOOST_AUTO_TEST_CASE(a_norm_used_without_its_products) {
  const Tensor x = random_values({3, 4}, 1), weight = random_values({4}, 2), bias = random_values({4}, 3);
  const std::vector<double> expected =
      gradient_of_sum(x, [&](const Variable& v) { return ops::exp(ops::layer_norm(v, weight, bias)); });
  Tape tape;
  const Variable leaf = tape.leaf(x), product = tape.leaf(random_values({2, 4}, 4));
  const Recording recording(tape);
  const auto joined = ops::normalized_linear(leaf, {weight, bias}, std::span(&product, 1));
  tape.backward(ops::sum(ops::exp(joined.normalized)));
  BOOST_CHECK_LE(max_difference(doubles(tape.gradient(leaf)), expected), 1e-14);
  BOOST_CHECK(!tape.gradient(product).defined());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(inferred_sizes)

BOOST_AUTO_TEST_CASE(reshape_passes_the_gradient_of_a_size_left_out) {
  const Tensor x = random_values({2, 3}, 1), factors = random_values({3, 2}, 2);
  const std::vector<double> found = gradient_of_sum(x, [&](const Variable& v) {
    const Variable y = ops::reshape(v, {-1, 2});
    BOOST_CHECK((y.shape() == Shape{3, 2}));
    return ops::multiply(y, factors);
  });
  check_equal(found, doubles(factors));
}

BOOST_AUTO_TEST_SUITE_END()
