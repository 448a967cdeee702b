#include "checks.h"

#include <cmath>
#include <vector>

#include "op_table.h"
#include "tape_checks.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(derivatives)

// An op as a user writes one, of a variable and a constant, whose derivative is what is tried.
template <class Derivative>
std::string error_of_derivative(Derivative derivative) {
  Tape tape;
  const Variable x = tape.leaf(vector_of({1, 2}));
  const Variable y = [&] {
    const Recording recording(tape);
    return record("mine", vector_of({3, 4}), {x, Variable(vector_of({5, 6}))}, {vector_of({7, 8})}, derivative);
  }();
  try {
    backward(tape, y, vector_of({1, 1}));
  } catch (const Error& e) {
    BOOST_TEST(!tape.gradient(x).defined());
    return e.what();
  }
  return "";
}

BOOST_AUTO_TEST_CASE(what_there_is_not_is_refused) {
  const std::string constant =
      "backward of 'mine': input 1 is a constant, whose gradient is not wanted; ask needs(1) first";
  BOOST_TEST(error_of_derivative([](Backward& b) { b.pass(1, b.output_gradient()); }) == constant);
  BOOST_TEST(error_of_derivative([](Backward& b) { b.gradient(1); }) == constant);
  const std::string input = "backward of 'mine': input 2 was asked for, but there are 2";
  BOOST_TEST(error_of_derivative([](Backward& b) { b.gradient(2); }) == input);
  BOOST_TEST(error_of_derivative([](Backward& b) { b.needs(2); }) == input);
  BOOST_TEST(error_of_derivative([](Backward& b) { b.input_shape(2); }) == input);
  BOOST_TEST(error_of_derivative([](Backward& b) { b.saved(1); }) ==
             "backward of 'mine': saved tensor 1 was asked for, but there is 1");
  BOOST_TEST(error_of_derivative([](Backward& b) { b.output_gradient(1); }) ==
             "backward of 'mine': output 1 was asked for, but there is 1");
}

BOOST_AUTO_TEST_CASE(gradients_of_another_kind_are_refused) {
  const std::string words = "backward of 'mine': the gradient of input 0 is ";
  BOOST_TEST(error_of_derivative([](Backward& b) { b.pass(0, Tensor::full({1}, 1.0, DType::kFloat64)); }) ==
             words + "float64 [1] on cpu, expected [2]");
  BOOST_TEST(error_of_derivative([](Backward& b) { b.pass(0, Tensor::full({2}, 1.0)); }) ==
             words + "float32 [2] on cpu, expected float64");
  BOOST_TEST(error_of_derivative([](Backward& b) { b.pass(0, Tensor()); }) ==
             words + "an undefined tensor, expected [2]");
  BOOST_TEST(error_of_derivative([](Backward& b) { b.pass(0, b.output_gradient()); }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(outputs_and_seeds)

BOOST_AUTO_TEST_CASE(several_outputs) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({1, 2})), b = tape.leaf(vector_of({3, 4}));
  std::vector<Variable> outputs;
  {
    const Recording recording(tape);
    outputs = {ops::multiply(a, b), ops::sum(a), ops::scale(b, 10)};
  }
  const std::vector<Tensor> seeds{vector_of({1, 10}), Tensor::scalar(100.0), vector_of({1, -1})};
  inject(tape, outputs, seeds);
  check_equal(tape.gradient(a), {103, 140});
  check_equal(tape.gradient(b), {11, 10});
}

BOOST_AUTO_TEST_CASE(an_output_within_the_computation) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3}));
  std::vector<Variable> outputs(2);
  {
    const Recording recording(tape);
    outputs[0] = ops::multiply(a, a);
    outputs[1] = ops::scale(outputs[0], 10);
  }
  inject(tape, outputs, std::vector{vector_of({1, 1}), vector_of({1, 0})});
  check_equal(tape.gradient(a), {44, 6});
}

BOOST_AUTO_TEST_CASE(the_same_output_twice) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3}));
  const Variable y = [&] {
    const Recording recording(tape);
    return ops::scale(a, 2);
  }();
  const Tensor seed = vector_of({1, 10});
  inject(tape, std::vector{y, y}, std::vector{seed, seed});
  check_equal(tape.gradient(a), {4, 40});
  check_equal(seed, {1, 10});
}

BOOST_AUTO_TEST_CASE(a_leaf_as_output) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3}));
  const Variable y = [&] {
    const Recording recording(tape);
    return ops::multiply(a, a);
  }();
  const Tensor seed = vector_of({1, 10});
  inject(tape, std::vector{a, y}, std::vector{seed, vector_of({1, 1})});
  check_equal(tape.gradient(a), {5, 16});
  check_equal(seed, {1, 10});
}

BOOST_AUTO_TEST_CASE(a_parameter_as_output) {
  Parameter p("p", vector_of({2, 3}));
  int calls = 0;
  p.add_hook([&](Parameter&) { ++calls; });
  Tensor seed = vector_of({1, 10});
  {
    Tape tape;
    backward(tape, p, seed);
  }
  seed.fill(0);
  check_equal(p.gradient(), {1, 10});
  BOOST_CHECK_EQUAL(calls, 1);

  Tape tape;
  std::vector<Variable> outputs{p, {}};
  {
    const Recording recording(tape);
    outputs[1] = ops::multiply(p, p);
  }
  inject(tape, outputs, std::vector{vector_of({1, 1}), vector_of({1, 1})});
  check_equal(p.gradient(), {6, 17});
  BOOST_CHECK_EQUAL(calls, 2);
}

BOOST_AUTO_TEST_CASE(a_parameter_as_output_twice) {
  Parameter p("p", vector_of({2, 3}));
  std::vector<double> seen;
  p.add_hook([&](Parameter& self) { seen.push_back(doubles(self.gradient())[0]); });
  Tape tape;
  inject(tape, std::vector<Variable>{p, p}, std::vector{vector_of({1, 1}), vector_of({10, 10})});
  check_equal(p.gradient(), {11, 11});
  BOOST_CHECK(seen == std::vector<double>{11});
}

BOOST_AUTO_TEST_CASE(bad_seeds_are_refused_before_anything_runs) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3}));
  Parameter p("p", vector_of({1, 1}));
  std::vector<Variable> y(2);
  {
    const Recording recording(tape);
    y = {ops::multiply(a, p), ops::sum(a)};
  }
  const Tensor good = vector_of({1, 1}), one = Tensor::scalar(1.0);
  BOOST_CHECK_EXCEPTION(inject(tape, y, std::vector{good, good}), ShapeError,
                        says({"seed 1", "float64 [2]", "float64 []"}));
  BOOST_CHECK_THROW(inject(tape, y, std::vector{good.to(DType::kFloat32), one}), Error);
  BOOST_CHECK_THROW(inject(tape, y, std::vector{good, Tensor()}), Error);
  BOOST_CHECK_THROW(inject(tape, y, std::vector{good}), ValueError);
  BOOST_CHECK_THROW(inject(tape, {}, {}), ValueError);
  BOOST_CHECK_THROW(inject(tape, std::vector<Variable>{y[0], good}, std::vector{good, good}), TapeError);
  BOOST_CHECK_THROW(inject(tape, std::vector<Variable>{y[0], {}}, std::vector{good, good}), TapeError);
  BOOST_CHECK_EXCEPTION(tape.backward(y[0]), ShapeError, says({"[2]", "scalar"}));
  BOOST_CHECK(!p.gradient().defined());
  BOOST_CHECK(!tape.consumed());
  inject(tape, y, std::vector{good, one});
  check_equal(tape.gradient(a), {2, 2});
  check_equal(p.gradient(), {2, 3});
}

BOOST_AUTO_TEST_CASE(a_backward_without_history) {
  Tape tape;
  BOOST_CHECK_EXCEPTION(tape.backward(Variable(Tensor::scalar(1.0))), TapeError, says({"no history"}));
  BOOST_CHECK_THROW(tape.backward(Variable()), Error);
  Parameter frozen("frozen", Tensor::scalar(1.0));
  frozen.set_requires_gradient(false);
  BOOST_CHECK_THROW(tape.backward(frozen), TapeError);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(shared_gradients)

BOOST_AUTO_TEST_CASE(detach_cuts_the_history) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3}));
  const Recording recording(tape);
  const Variable cut = detach(ops::multiply(a, a));
  BOOST_CHECK(!cut.has_history());
  tape.backward(ops::sum(ops::multiply(cut, a)));
  check_equal(tape.gradient(a), {4, 9});
}

BOOST_AUTO_TEST_CASE(leaf_gradients_belong_to_the_leaf_alone) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3})), b = tape.leaf(vector_of({5, 7}));
  const Variable y = [&] {
    const Recording recording(tape);
    return ops::add(a, b);
  }();
  const Tensor seed = vector_of({1, 10});
  backward(tape, y, seed);
  tape.gradient(a).fill(0);
  check_equal(tape.gradient(b), {1, 10});
  check_equal(seed, {1, 10});
}

BOOST_AUTO_TEST_CASE(residual_connections) {
  const Tensor input = random_tensor({3, 4}, DType::kFloat64, 1), weight = random_tensor({4, 4}, DType::kFloat64, 2);
  Tape tape;
  const Variable x = tape.leaf(input);
  Variable y = x;
  {
    const Recording recording(tape);
    for (int layer = 0; layer < 3; ++layer) y = ops::add(y, ops::linear(y, weight));
  }
  const Tensor seed = random_tensor({3, 4}, DType::kFloat64, 3), kept = seed.clone();
  backward(tape, y, seed);
  Variable expected = kept;  // dx = seed (1 + W)³
  for (int layer = 0; layer < 3; ++layer) expected = ops::add(expected, ops::matmul(expected, weight));
  BOOST_CHECK(max_difference(tape.gradient(x), expected.value()) <= 1e-12);
  BOOST_CHECK(same_bits(seed, kept));
}

BOOST_AUTO_TEST_CASE(one_gradient_passed_to_two_inputs) {
  for (const bool reversed : {false, true}) {
    Tape tape;
    const Variable a = tape.leaf(vector_of({2, 3})), b = tape.leaf(vector_of({5, 7}));
    const Recording recording(tape);
    // In backward `a` gets a second contribution after the sum has given the same tensor to both.
    const Variable product = ops::multiply(a, vector_of({10, 10}));
    const Variable total = reversed ? ops::add(b, a) : ops::add(a, b);
    tape.backward(ops::sum(ops::add(total, product)));
    check_equal(tape.gradient(a), {11, 11});
    check_equal(tape.gradient(b), {1, 1});
  }
}

BOOST_AUTO_TEST_CASE(a_sum_of_a_value_with_itself) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3}));
  const Variable y = [&] {
    const Recording recording(tape);
    return ops::add(ops::add(a, a), ops::add(a, ops::add(a, a)));
  }();
  const Tensor seed = vector_of({1, 10});
  backward(tape, y, seed);
  check_equal(tape.gradient(a), {5, 50});
  check_equal(seed, {1, 10});
}

BOOST_AUTO_TEST_CASE(views_of_one_gradient) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({1, 2})), b = tape.leaf(vector_of({3, 4}));
  const Variable y = [&] {
    const Recording recording(tape);
    const Variable extra = ops::scale(a, 2);
    return ops::add(ops::concat(std::vector{a, b, a}), ops::concat(std::vector{extra, extra, b}));
  }();
  const Tensor seed = vector_of({1, 2, 3, 4, 5, 6});
  backward(tape, y, seed);
  check_equal(tape.gradient(a), {(1 + 5) + 2 * (1 + 3), (2 + 6) + 2 * (2 + 4)});
  check_equal(tape.gradient(b), {3 + 5, 4 + 6});
  check_equal(seed, {1, 2, 3, 4, 5, 6});
}

BOOST_AUTO_TEST_CASE(reshapes_of_one_gradient) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({1, 2, 3, 4}));
  const Variable y = [&] {
    const Recording recording(tape);
    const Variable square = ops::reshape(a, {2, 2});
    return ops::add(ops::reshape(square, {4}), ops::reshape(ops::add(square, square), {4}));
  }();
  const Tensor seed = vector_of({1, 10, 100, 1000});
  backward(tape, y, seed);
  check_equal(tape.gradient(a), {3, 30, 300, 3000});
  check_equal(seed, {1, 10, 100, 1000});
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(anomalies)

BOOST_AUTO_TEST_CASE(the_first_op_in_forward_is_named) {
  const AnomalyMode on;
  const Variable x = vector_of({1, -1, 2});
  BOOST_CHECK_EXCEPTION(ops::scale(ops::log(x), 2), NumericalError, says({"output", "'log'", "nan", "element 1"}));
}

BOOST_AUTO_TEST_CASE(the_first_op_in_backward_is_named) {
  Tape tape;
  const Variable x = tape.leaf(vector_of({4, 0, 1}));
  const Recording recording(tape);
  const AnomalyMode on;
  const Variable y = ops::sum(ops::scale(ops::sqrt(ops::scale(x, 2)), 3));
  BOOST_CHECK_EXCEPTION(tape.backward(y), NumericalError, says({"gradient", "'sqrt'", "inf", "element 1"}));
}

BOOST_AUTO_TEST_CASE(parameters_are_checked_too) {
  const Parameter p("p", vector_of({4, 0}));
  Tape tape;
  const Recording recording(tape);
  const AnomalyMode on;
  const Variable y = ops::sum(ops::sqrt(p));
  BOOST_CHECK_EXCEPTION(tape.backward(y), NumericalError, says({"'sqrt'"}));
}

BOOST_AUTO_TEST_CASE(a_gradient_from_before_is_no_fault_of_an_op) {
  Parameter p("p", vector_of({4, 0}));
  p.mutable_gradient() = vector_of({1, std::nan("")});
  Tape tape;
  const Recording recording(tape);
  const AnomalyMode on;
  const Variable y = ops::sum(ops::scale(p, 2));
  BOOST_CHECK_EXCEPTION(tape.backward(y), NumericalError, says({"gradient, before this pass, of 'p'", "element 1"}));
}

BOOST_AUTO_TEST_CASE(without_the_mode_nothing_is_thrown) {
  BOOST_CHECK(!AnomalyMode::enabled());
  BOOST_CHECK_NO_THROW(ops::log(vector_of({-1})));
  {
    const AnomalyMode on;
    BOOST_CHECK(AnomalyMode::enabled());
    const AnomalyMode off(false);
    BOOST_CHECK_NO_THROW(ops::log(vector_of({-1})));
  }
  BOOST_CHECK(!AnomalyMode::enabled());
}

BOOST_AUTO_TEST_CASE(infinity_in_float32_is_found) {
  const AnomalyMode on;
  BOOST_CHECK_THROW(ops::exp(Tensor::full({3}, 200)), NumericalError);
  BOOST_CHECK_NO_THROW(ops::exp(Tensor::full({3}, 20)));
}

BOOST_AUTO_TEST_SUITE_END()
