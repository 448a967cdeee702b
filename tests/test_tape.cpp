#include <string>
#include <thread>
#include <vector>

#include "checks.h"
#include "op_table.h"
#include "tapecache/autograd/anomaly.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/matmul.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

std::size_t bytes_in_use() { return allocator().stats().current; }

void backward(Tape& tape, const Variable& output, const Tensor& seed) {
  tape.backward(std::span(&output, 1), std::span(&seed, 1));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(life_of_a_tape)

BOOST_AUTO_TEST_CASE(leaf_gradients) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3})), b = tape.leaf(vector_of({5, 7}));
  {
    const Recording recording(tape);
    tape.backward(ops::sum(ops::multiply(a, b)));
  }
  check_equal(tape.gradient(a), {5, 7});
  check_equal(tape.gradient(b), {2, 3});
}

BOOST_AUTO_TEST_CASE(a_node_shows_what_it_holds) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2, 3}));
  const Parameter p("weight", vector_of({5, 7}));
  const Recording recording(tape);
  const Variable y = ops::multiply(a, p);
  BOOST_REQUIRE_EQUAL(tape.nodes().size(), 1u);
  const Node& node = tape.nodes()[0];
  BOOST_CHECK_EQUAL(std::string(node.op), "multiply");
  BOOST_REQUIRE_EQUAL(node.inputs.size(), 2u);
  BOOST_CHECK_EQUAL(node.inputs[0].value, 0);
  BOOST_CHECK(node.inputs[1].parameter == p);
  BOOST_REQUIRE_EQUAL(node.saved.size(), 2u);
  BOOST_CHECK(node.saved[0].shares_storage(a.value()));
  BOOST_CHECK(tape.holds(y));
  BOOST_CHECK(y.has_history());
}

BOOST_AUTO_TEST_CASE(second_backward_throws) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2}));
  const Recording recording(tape);
  const Variable y = ops::exp(a);
  tape.backward(y);
  BOOST_CHECK(tape.consumed());
  BOOST_CHECK_EXCEPTION(tape.backward(y), TapeError, says({"backward", "consumed", "fresh"}));
  BOOST_CHECK_EXCEPTION(ops::exp(a), TapeError, says({"exp", "backward has run"}));
  BOOST_CHECK_THROW(tape.leaf(vector_of({1})), TapeError);
}

BOOST_AUTO_TEST_CASE(a_cleared_tape_refuses_everything) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({2}));
  const Variable y = [&] {
    const Recording recording(tape);
    return ops::exp(a);
  }();
  tape.clear();
  BOOST_CHECK(tape.nodes().empty());
  BOOST_CHECK_THROW(tape.backward(y), TapeError);
  BOOST_CHECK_THROW(tape.gradient(a), TapeError);
  const Recording recording(tape);
  BOOST_CHECK_THROW(ops::exp(a), TapeError);
}

BOOST_AUTO_TEST_CASE(without_a_tape_nothing_is_recorded) {
  Tape tape;
  const Variable leaf = tape.leaf(vector_of({1, 2}));
  const Parameter p("p", vector_of({1, 2}));
  const std::size_t before = bytes_in_use();
  for (int i = 0; i < 3; ++i) {
    const Variable y = ops::multiply(ops::exp(leaf), p);
    BOOST_CHECK(!y.has_history());
  }
  BOOST_CHECK(tape.nodes().empty());
  BOOST_CHECK_EQUAL(bytes_in_use(), before);
}

BOOST_AUTO_TEST_CASE(constants_are_not_recorded) {
  Tape tape;
  const Recording recording(tape);
  const Variable c = vector_of({1, 2});
  BOOST_CHECK(!ops::exp(c).has_history());
  BOOST_CHECK(tape.nodes().empty());
}

BOOST_AUTO_TEST_CASE(interleaved_tapes) {
  Tape first, second;
  const Variable a = first.leaf(vector_of({2})), b = second.leaf(vector_of({3}));
  const auto on = [](Tape& tape, auto f) {
    const Recording recording(tape);
    return f();
  };
  Variable x = on(first, [&] { return ops::multiply(a, a); });
  Variable y = on(second, [&] { return ops::multiply(b, b); });
  x = on(first, [&] { return ops::multiply(x, a); });
  y = on(second, [&] { return ops::scale(y, 5); });
  second.backward(y);
  x = on(first, [&] { return ops::scale(x, 2); });
  first.backward(x);
  check_equal(first.gradient(a), {24});   // 2 a³
  check_equal(second.gradient(b), {30});  // 5 b²
}

BOOST_AUTO_TEST_CASE(tapes_on_two_threads) {
  const Tensor input = random_tensor({50, 40}, DType::kFloat64, 1), weight = random_tensor({30, 40}, DType::kFloat64, 2);
  Tape here;
  const Recording recording(here);
  std::vector<Tensor> gradients(4);
  std::vector<char> began_without_tape(gradients.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      threads.emplace_back([&, i] {
        began_without_tape[i] = Tape::active() == nullptr;
        for (int repeat = 0; repeat < 20; ++repeat) {
          Tape tape;
          const Variable leaf = tape.leaf(input);
          const Recording inner(tape);
          tape.backward(ops::sum(ops::tanh(ops::linear(leaf, weight))));
          gradients[i] = tape.gradient(leaf);
        }
      });
    }
  }
  BOOST_CHECK(here.nodes().empty());
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    BOOST_CHECK(began_without_tape[i]);
    BOOST_CHECK(same_bits(gradients[i], gradients[0]));
  }
}

BOOST_AUTO_TEST_CASE(recordings_nest) {
  Tape outer, inner;
  BOOST_CHECK(Tape::active() == nullptr);
  {
    const Recording a(outer);
    BOOST_CHECK(Tape::active() == &outer);
    {
      const Recording b(inner);
      BOOST_CHECK(Tape::active() == &inner);
      {
        const NoRecording none;
        BOOST_CHECK(Tape::active() == nullptr);
      }
      BOOST_CHECK(Tape::active() == &inner);
    }
    try {
      const NoRecording none;
      throw 1;
    } catch (int) {
      BOOST_CHECK(Tape::active() == &outer);
    }
  }
  BOOST_CHECK(Tape::active() == nullptr);
}

BOOST_AUTO_TEST_CASE(a_tape_that_ends_is_no_longer_active) {
  auto tape = std::make_unique<Tape>();
  const Recording recording(*tape);
  tape.reset();
  BOOST_CHECK(Tape::active() == nullptr);
}

BOOST_AUTO_TEST_CASE(variables_of_another_tape_are_rejected) {
  Tape tape;
  const Variable own = tape.leaf(vector_of({1}));
  Variable foreign;
  {
    Tape other;
    foreign = other.leaf(vector_of({2}));
    const Recording recording(tape);
    BOOST_CHECK_EXCEPTION(ops::add(own, foreign), TapeError, says({"add", "input 1", "another tape"}));
    BOOST_CHECK(tape.nodes().empty());
    BOOST_CHECK_THROW(tape.backward(foreign), TapeError);
    BOOST_CHECK_THROW(tape.gradient(foreign), TapeError);
    BOOST_CHECK(!other.holds(own));
  }
  const Recording recording(tape);
  BOOST_CHECK_THROW(ops::exp(foreign), TapeError);
  BOOST_CHECK_NO_THROW(ops::add(own, detach(foreign)));
}

BOOST_AUTO_TEST_CASE(gradient_of_what_is_no_leaf) {
  Tape tape;
  const Variable a = tape.leaf(vector_of({1})), unused = tape.leaf(vector_of({1}));
  const Recording recording(tape);
  const Variable y = ops::exp(a);
  tape.backward(y);
  BOOST_CHECK_THROW(tape.gradient(y), TapeError);
  BOOST_CHECK_THROW(tape.gradient(Variable(vector_of({1}))), TapeError);
  BOOST_CHECK_THROW(tape.gradient(Variable()), TapeError);
  BOOST_CHECK(!tape.gradient(unused).defined());
}

BOOST_AUTO_TEST_CASE(leaves_are_floating) {
  Tape tape;
  BOOST_CHECK_EXCEPTION(tape.leaf(Tensor::zeros({2}, DType::kInt64)), DTypeError, says({"leaf", "int64"}));
  BOOST_CHECK_THROW(tape.leaf(Tensor()), Error);
  BOOST_CHECK_EXCEPTION(Parameter("ids", Tensor::zeros({2}, DType::kInt64)), DTypeError,
                        says({"ids", "int64"}));
  BOOST_CHECK_THROW(Parameter("nothing", Tensor()), DTypeError);
}

BOOST_AUTO_TEST_CASE(memory_is_given_back) {
  const Tensor input = random_tensor({64, 64}, DType::kFloat32, 1);
  const std::size_t before = bytes_in_use(), one = Allocator::block_size(input.bytes());
  {
    Tape tape;
    const Variable leaf = tape.leaf(input);
    const Recording recording(tape);
    Tensor seed = Tensor::full({}, 1);
    const std::size_t with_seed = bytes_in_use();
    {
      Variable x = leaf;
      for (int i = 0; i < 8; ++i) x = ops::tanh(x);
      x = ops::sum(x);
      BOOST_CHECK_GE(bytes_in_use(), with_seed + 8 * one);
      backward(tape, x, seed);
    }
    BOOST_CHECK_EQUAL(bytes_in_use(), with_seed + one);  // the leaf's gradient
    BOOST_CHECK(!tape.nodes().empty());
  }
  BOOST_CHECK_EQUAL(bytes_in_use(), before);
}

BOOST_AUTO_TEST_CASE(backward_releases_as_it_goes) {
  const Tensor input = random_tensor({64, 64}, DType::kFloat32, 1);
  const std::size_t one = Allocator::block_size(input.bytes());
  Tape tape;
  const Recording recording(tape);
  Variable x = tape.leaf(input);
  for (int i = 0; i < 8; ++i) x = ops::tanh(x);
  Variable total = ops::sum(x);
  x = Variable();
  allocator().reset_peak();
  const std::size_t before = bytes_in_use();
  tape.backward(total);
  // Two gradients at a time; each later one takes the place of an activation that is released.
  BOOST_CHECK_LE(allocator().stats().peak, before + 2 * one + 1024);
}

BOOST_AUTO_TEST_CASE(a_changed_saved_tensor_is_found_out) {
  Tensor values = vector_of({1, 2});
  Tape tape;
  const Variable a = tape.leaf(values);
  const Recording recording(tape);
  const Variable y = ops::sum(ops::multiply(a, a));
  values.mutable_data<double>()[0] = 7;
  BOOST_CHECK_EXCEPTION(tape.backward(y), TapeError, says({"'multiply'", "changed"}));
}

BOOST_AUTO_TEST_CASE(a_changed_parameter_is_found_out) {
  Parameter p("p", vector_of({1, 2}));
  Tape tape;
  const Recording recording(tape);
  const Variable y = ops::sum(ops::exp(ops::multiply(p, p)));
  p.assign(vector_of({3, 4}));
  BOOST_CHECK_THROW(tape.backward(y), TapeError);
}

BOOST_AUTO_TEST_CASE(a_change_of_what_no_derivative_reads_is_fine) {
  Tensor values = vector_of({1, 2});
  Tape tape;
  const Variable a = tape.leaf(values);
  const Recording recording(tape);
  const Variable y = ops::sum(ops::scale(a, 3));
  values.fill(0);
  tape.backward(y);
  check_equal(tape.gradient(a), {3, 3});
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

BOOST_AUTO_TEST_SUITE(parameters)

BOOST_AUTO_TEST_CASE(gradients_add_up_until_cleared) {
  Parameter p("p", vector_of({1, 2}));
  for (int pass = 1; pass <= 3; ++pass) {
    Tape tape;
    const Recording recording(tape);
    tape.backward(ops::sum(ops::scale(p, 2)));
    check_equal(p.gradient(), {2.0 * pass, 2.0 * pass});
  }
  p.clear_gradient();
  BOOST_CHECK(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(a_kept_gradient_is_not_changed_by_a_later_pass) {
  Parameter p("p", vector_of({1, 2}));
  Tensor kept;
  for (int pass = 0; pass < 2; ++pass) {
    Tape tape;
    const Recording recording(tape);
    tape.backward(ops::sum(ops::multiply(p, p)));
    if (pass == 0) kept = p.gradient();
  }
  check_equal(kept, {2, 4});
  check_equal(p.gradient(), {4, 8});
}

BOOST_AUTO_TEST_CASE(a_gradient_does_not_share_the_seed) {
  Parameter p("p", vector_of({1, 2}));
  Tape tape;
  const Variable y = [&] {
    const Recording recording(tape);
    return ops::add(p, vector_of({1, 1}));
  }();
  Tensor seed = vector_of({3, 4});
  backward(tape, y, seed);
  seed.fill(0);
  check_equal(p.gradient(), {3, 4});
}

BOOST_AUTO_TEST_CASE(tied_parameters) {
  const Parameter p("p", vector_of({2, 3}));
  const Parameter tied = p;
  BOOST_CHECK(p == tied);
  BOOST_CHECK(p.id() == tied.id());
  Tape tape;
  const Recording recording(tape);
  tape.backward(ops::sum(ops::multiply(p, tied)));
  check_equal(p.gradient(), {4, 6});
}

BOOST_AUTO_TEST_CASE(frozen_parameters_get_nothing) {
  Parameter frozen("frozen", vector_of({1, 2})), free("free", vector_of({3, 4}));
  frozen.set_requires_gradient(false);
  int calls = 0;
  frozen.add_hook([&](Parameter&) { ++calls; });
  Tape tape;
  const Recording recording(tape);
  BOOST_CHECK(!ops::exp(frozen).has_history());
  BOOST_CHECK(tape.nodes().empty());
  tape.backward(ops::sum(ops::multiply(frozen, free)));
  BOOST_CHECK(!frozen.gradient().defined());
  BOOST_CHECK_EQUAL(calls, 0);
  check_equal(free.gradient(), {1, 2});
}

BOOST_AUTO_TEST_CASE(a_hook_runs_once_after_the_last_contribution) {
  Parameter early("early", vector_of({1, 2})), late("late", vector_of({3, 4}));
  std::vector<std::string> order;
  std::vector<std::vector<double>> seen;
  for (Parameter* p : {&early, &late}) {
    p->add_hook([&](Parameter& self) {
      order.push_back(self.name());
      seen.push_back(doubles(self.gradient()));
    });
  }
  Tape tape;
  {
    const Recording recording(tape);
    const Variable x = ops::multiply(early, early);
    const Variable y = ops::multiply(ops::add(x, late), early);
    tape.backward(ops::sum(y));
  }
  BOOST_CHECK((order == std::vector<std::string>{"late", "early"}));
  check_equal(early.gradient(), {3 * 1 + 3, 3 * 4 + 4});  // 3 e² + l
  BOOST_REQUIRE_EQUAL(seen.size(), 2u);
  BOOST_CHECK(seen[0] == doubles(late.gradient()));
  BOOST_CHECK(seen[1] == doubles(early.gradient()));
}

BOOST_AUTO_TEST_CASE(a_hook_runs_once_in_each_pass) {
  Parameter p("p", vector_of({1, 2}));
  int calls = 0;
  p.add_hook([&](Parameter&) { ++calls; });
  p.add_hook([&](Parameter&) { calls += 10; });
  for (int pass = 1; pass <= 3; ++pass) {
    Tape tape;
    const Recording recording(tape);
    tape.backward(ops::sum(ops::multiply(p, p)));
    BOOST_CHECK_EQUAL(calls, 11 * pass);
  }
  p.clear_hooks();
  Tape tape;
  const Recording recording(tape);
  tape.backward(ops::sum(p));
  BOOST_CHECK_EQUAL(calls, 33);
}

BOOST_AUTO_TEST_CASE(a_hook_runs_although_its_first_use_leads_nowhere) {
  Parameter p("p", vector_of({1, 2}));
  std::vector<double> seen;
  p.add_hook([&](Parameter& self) { seen = doubles(self.gradient()); });
  Tape tape;
  const Recording recording(tape);
  ops::exp(p);
  const Variable y = ops::sum(ops::scale(p, 3));
  ops::log(p);
  tape.backward(y);
  BOOST_CHECK((seen == std::vector<double>{3, 3}));
}

BOOST_AUTO_TEST_CASE(an_unreached_parameter_has_no_gradient_and_no_hook) {
  Parameter reached("reached", vector_of({1, 2})), unreached("unreached", vector_of({1, 2}));
  int calls = 0;
  unreached.add_hook([&](Parameter&) { ++calls; });
  Tape tape;
  const Recording recording(tape);
  ops::exp(unreached);
  tape.backward(ops::sum(reached));
  BOOST_CHECK(!unreached.gradient().defined());
  BOOST_CHECK_EQUAL(calls, 0);
}

BOOST_AUTO_TEST_CASE(assign_keeps_shape_and_type) {
  Parameter p("weight", vector_of({1, 2}));
  BOOST_CHECK_EXCEPTION(p.assign(vector_of({1, 2, 3})), ShapeError, says({"weight", "[3]", "[2]"}));
  BOOST_CHECK_THROW(p.assign(Tensor::zeros({2})), Error);
  BOOST_CHECK_THROW(p.assign(Tensor()), Error);
  const Tensor new_value = vector_of({5, 6});
  p.assign(new_value);
  check_equal(p.value(), {5, 6});
  BOOST_CHECK(!p.value().shares_storage(new_value));
}

BOOST_AUTO_TEST_CASE(an_undefined_parameter_says_so) {
  const Parameter p;
  BOOST_CHECK(!p.defined());
  BOOST_CHECK_THROW(p.value(), Error);
  BOOST_CHECK_THROW(Variable{p}, Error);
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
  BOOST_CHECK_EXCEPTION(ops::scale(ops::log(x), 2), NumericalError,
                        says({"output", "'log'", "nan", "element 1"}));
}

BOOST_AUTO_TEST_CASE(the_first_op_in_backward_is_named) {
  Tape tape;
  const Variable x = tape.leaf(vector_of({4, 0, 1}));
  const Recording recording(tape);
  const AnomalyMode on;
  const Variable y = ops::sum(ops::scale(ops::sqrt(ops::scale(x, 2)), 3));
  BOOST_CHECK_EXCEPTION(tape.backward(y), NumericalError,
                        says({"gradient", "'sqrt'", "inf", "element 1"}));
}

BOOST_AUTO_TEST_CASE(parameters_are_checked_too) {
  const Parameter p("p", vector_of({4, 0}));
  Tape tape;
  const Recording recording(tape);
  const AnomalyMode on;
  const Variable y = ops::sum(ops::sqrt(p));
  BOOST_CHECK_EXCEPTION(tape.backward(y), NumericalError, says({"'sqrt'"}));
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
