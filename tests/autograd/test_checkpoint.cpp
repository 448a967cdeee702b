#include <string>
#include <vector>

#include "checks.h"
#include "odd_context.h"
#include "op_table.h"
#include "tapecache/autograd/function.h"
#include "tapecache/autograd/parameters_read.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

using Variables = std::vector<Variable>;
using VariableFunction = std::function<Variables(std::span<const Variable>)>;

/// Two layers with dropout between; its parameters are captured, not passed.
struct Block {
  Parameter in{"in", random_tensor({24, 16}, DType::kFloat32, 1)};
  Parameter bias{"bias", random_tensor({24}, DType::kFloat32, 2)};
  Parameter out{"out", random_tensor({16, 24}, DType::kFloat32, 3)};

  Variable operator()(const Variable& x) const {
    const Variable hidden = ops::dropout(ops::gelu(ops::linear(x, in, bias)), 0.25);
    return ops::add(x, ops::dropout(ops::linear(hidden, out), 0.25));
  }
};

struct Gradients {
  Tensor output, input, in, bias, out;
  RandomState random_after;
};

/// Two blocks that share parameters, each under `wrap`.
Gradients run(const std::function<Variable(const Block&, const Variable&)>& wrap) {
  const Block block;
  begin_random_step(3, 4);
  Tape tape;
  const Variable x = tape.leaf(random_tensor({6, 16}, DType::kFloat32, 9));
  Gradients result;
  {
    const Recording recording(tape);
    const Variable y = wrap(block, wrap(block, x));
    result.random_after = random_state();
    begin_random_step(99, 99);  // what backward replays must not depend on
    result.output = y.value();
    tape.backward(ops::sum(ops::multiply(y, y)));
  }
  result.input = tape.gradient(x);
  result.in = block.in.gradient();
  result.bias = block.bias.gradient();
  result.out = block.out.gradient();
  BOOST_CHECK((random_state() == RandomState{{99, 99, 0}, 0, 0}));
  return result;
}

Variable plain(const Block& block, const Variable& x) { return block(x); }

Variable once(const Block& block, const Variable& x) {
  return checkpoint([block](std::span<const Variable> v) { return Variables{block(v[0])}; }, std::span(&x, 1)).front();
}

Variable nested(const Block& block, const Variable& x) {
  return checkpoint([block](std::span<const Variable> v) { return Variables{once(block, v[0])}; }, std::span(&x, 1))
      .front();
}

void check_same(const Gradients& a, const Gradients& b) {
  BOOST_CHECK(same_bits(a.output, b.output));
  BOOST_CHECK(same_bits(a.input, b.input));
  BOOST_CHECK(same_bits(a.in, b.in));
  BOOST_CHECK(same_bits(a.bias, b.bias));
  BOOST_CHECK(same_bits(a.out, b.out));
  BOOST_CHECK(a.random_after == b.random_after);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(checkpoints)

BOOST_AUTO_TEST_CASE(equal_to_none_bit_for_bit) { check_same(run(once), run(plain)); }

BOOST_AUTO_TEST_CASE(nested_ones_too) { check_same(run(nested), run(plain)); }

BOOST_AUTO_TEST_CASE(keeps_only_its_inputs) {
  const Block block;
  const auto held = [&](auto wrap) {
    Tape tape;
    const Variable x = tape.leaf(random_tensor({512, 16}, DType::kFloat32, 9));
    const Recording recording(tape);
    const std::size_t before = allocator().stats().current;
    const Variable y = wrap(block, x);
    return allocator().stats().current - before;
  };
  const std::size_t output = Allocator::block_size(512 * 16 * sizeof(float));
  BOOST_CHECK_EQUAL(held(once), output);
  BOOST_CHECK_GE(held(plain), 3 * output);
}

BOOST_AUTO_TEST_CASE(hooks_run_once_after_the_last_contribution) {
  Parameter p("p", vector_of({2, 3}));
  std::vector<std::vector<double>> seen;
  p.add_hook([&](Parameter& self) { seen.push_back(doubles(self.gradient())); });
  Tape tape;
  const Variable x = tape.leaf(vector_of({5, 7}));
  const Recording recording(tape);
  const VariableFunction f = [p](std::span<const Variable> v) {
    return Variables{ops::multiply(ops::multiply(v[0], p), p)};
  };
  const Variable first = ops::multiply(x, p);
  const Variable second = checkpoint(f, std::span(&first, 1)).front();
  tape.backward(ops::sum(ops::multiply(second, p)));  // x p⁴
  check_equal(p.gradient(), {4 * 5 * 8, 4 * 7 * 27});
  BOOST_REQUIRE_EQUAL(seen.size(), 1u);
  BOOST_CHECK(seen[0] == doubles(p.gradient()));
}

BOOST_AUTO_TEST_CASE(hooks_of_nested_ones_run_once) {
  Parameter p("p", vector_of({2, 3}));
  int calls = 0;
  p.add_hook([&](Parameter&) { ++calls; });
  const VariableFunction inner = [p](std::span<const Variable> v) { return Variables{ops::multiply(v[0], p)}; };
  const VariableFunction outer = [inner](std::span<const Variable> v) { return checkpoint(inner, v); };
  Tape tape;
  const Recording recording(tape);
  const Variable x = vector_of({5, 7});
  tape.backward(ops::sum(checkpoint(outer, std::span(&x, 1)).front()));
  check_equal(p.gradient(), {5, 7});
  BOOST_CHECK_EQUAL(calls, 1);
}

BOOST_AUTO_TEST_CASE(an_empty_function_is_refused) {
  const Variable x = vector_of({5, 7});
  BOOST_CHECK_EXCEPTION(checkpoint({}, std::span(&x, 1)), ValueError, says({"checkpoint: the function is empty"}));
}

/// A backward of its own within one: its tape decides, at whatever depth it runs.
BOOST_AUTO_TEST_CASE(a_tape_within_runs_its_own_hooks) {
  Parameter p("p", vector_of({2, 3})), probed("probed", vector_of({1, 1}));
  int hooks = 0, probes = 0;
  p.add_hook([&](Parameter&) { ++hooks; });
  probed.add_hook([&](Parameter&) { ++probes; });
  const VariableFunction inner = [p, probed](std::span<const Variable> v) {
    Tape probe;
    Variable y;
    {
      const Recording recording(probe);
      y = ops::sum(ops::scale(probed, 2));
    }
    probe.backward(y);
    return Variables{ops::multiply(v[0], p)};
  };
  const VariableFunction outer = [inner](std::span<const Variable> v) { return checkpoint(inner, v); };
  Tape tape;
  const Recording recording(tape);
  const Variable x = vector_of({5, 7});
  // Once in the forward; then in that of the outer one again, and of the inner one.
  tape.backward(ops::sum(checkpoint(outer, std::span(&x, 1)).front()));
  BOOST_TEST(hooks == 1);
  BOOST_TEST(probes == 3);
}

BOOST_AUTO_TEST_CASE(hooks_are_left_where_that_is_asked_for) {
  Parameter p("p", vector_of({2, 3})), itself("itself", vector_of({1, 1}));
  int hooks = 0;
  for (Parameter q : {p, itself}) q.add_hook([&](Parameter&) { ++hooks; });
  for (const auto which : {Tape::Hooks::kLeave, Tape::Hooks::kRun}) {
    Tape tape;
    std::vector<Variable> outputs{{}, itself};
    {
      const Recording recording(tape);
      outputs[0] = ops::scale(p, 2);
    }
    tape.backward(outputs, std::vector<Tensor>{vector_of({1, 1}), vector_of({1, 1})}, which);
    BOOST_TEST(hooks == (which == Tape::Hooks::kRun ? 2 : 0));
  }
  check_equal(p.gradient(), {4, 4});
}

BOOST_AUTO_TEST_CASE(parameters_as_inputs) {
  Parameter p("p", vector_of({2, 3}));
  Tape tape;
  const Recording recording(tape);
  const Variables inputs{p, vector_of({5, 7})};
  const VariableFunction f = [p](std::span<const Variable> v) {
    return Variables{ops::multiply(ops::multiply(v[0], v[1]), p)};
  };
  tape.backward(ops::sum(checkpoint(f, inputs).front()));  // c p²
  check_equal(p.gradient(), {20, 42});
}

BOOST_AUTO_TEST_CASE(frozen_parameters_stay_without) {
  Parameter frozen("frozen", vector_of({2, 3}));
  frozen.set_requires_gradient(false);
  Tape tape;
  const Variable x = tape.leaf(vector_of({5, 7}));
  const Recording recording(tape);
  const VariableFunction f = [frozen](std::span<const Variable> v) { return Variables{ops::multiply(v[0], frozen)}; };
  tape.backward(ops::sum(checkpoint(f, std::span(&x, 1)).front()));
  check_equal(tape.gradient(x), {2, 3});
  BOOST_CHECK(!frozen.gradient().defined());
}

BOOST_AUTO_TEST_CASE(several_outputs_one_unused) {
  Tape tape;
  const Variable x = tape.leaf(vector_of({5, 7}));
  const Recording recording(tape);
  const VariableFunction f = [](std::span<const Variable> v) {
    return Variables{ops::exp(v[0]), ops::multiply(v[0], v[0]), ops::scale(v[0], 3)};
  };
  const Variables y = checkpoint(f, std::span(&x, 1));
  BOOST_REQUIRE_EQUAL(y.size(), 3u);
  tape.backward(ops::add(ops::sum(y[1]), ops::sum(y[2])));
  check_equal(tape.gradient(x), {13, 17});
}

BOOST_AUTO_TEST_CASE(several_inputs_one_an_index) {
  Tape tape;
  const Variable table = tape.leaf(Tensor::from<double>({1, 2, 3, 4}, {2, 2}));
  const Recording recording(tape);
  const Variables inputs{table, Tensor::from<std::int64_t>({1, 1, 0}, {3})};
  const VariableFunction f = [](std::span<const Variable> v) { return Variables{ops::embedding(v[0], v[1].value())}; };
  tape.backward(ops::sum(checkpoint(f, inputs).front()));
  check_equal(tape.gradient(table), {1, 1, 2, 2});
}

BOOST_AUTO_TEST_CASE(an_input_returned_as_it_is) {
  Tape tape;
  const Variable x = tape.leaf(vector_of({5, 7}));
  const Recording recording(tape);
  const VariableFunction f = [](std::span<const Variable> v) { return Variables{v[0], ops::scale(v[0], 2)}; };
  const Variables y = checkpoint(f, std::span(&x, 1));
  tape.backward(ops::sum(ops::multiply(y[0], y[1])));
  check_equal(tape.gradient(x), {20, 28});
}

BOOST_AUTO_TEST_CASE(a_parameter_returned_as_it_is) {
  Parameter p("p", vector_of({2, 3}));
  Tape tape;
  const Variable x = tape.leaf(vector_of({5, 7}));
  const Recording recording(tape);
  const VariableFunction f = [p](std::span<const Variable> v) { return Variables{ops::scale(v[0], 2), p}; };
  const Variables y = checkpoint(f, std::span(&x, 1));
  tape.backward(ops::sum(ops::multiply(y[0], y[1])));
  check_equal(tape.gradient(x), {4, 6});
  check_equal(p.gradient(), {10, 14});
}

BOOST_AUTO_TEST_CASE(without_a_tape_it_only_computes) {
  const Variable x = vector_of({5, 7});
  const VariableFunction f = [](std::span<const Variable> v) { return Variables{ops::scale(v[0], 2)}; };
  const Variable y = checkpoint(f, std::span(&x, 1)).front();
  BOOST_CHECK(!y.has_history());
  check_equal(y.value(), {10, 14});
}

BOOST_AUTO_TEST_CASE(history_from_outside_is_refused_not_lost) {
  Tape tape;
  const Variable x = tape.leaf(vector_of({5, 7})), outside = tape.leaf(vector_of({1, 2}));
  const Recording recording(tape);
  const VariableFunction f = [outside](std::span<const Variable> v) { return Variables{ops::multiply(v[0], outside)}; };
  const VariableFunction in_another = [&f](std::span<const Variable> v) { return checkpoint(f, v); };
  const VariableFunction as_it_is = [outside](std::span<const Variable>) { return Variables{outside}; };
  const Variable constant = vector_of({5, 7});
  for (const Variable& input : {x, constant}) {
    const std::span<const Variable> inputs(&input, 1);
    BOOST_CHECK_EXCEPTION(checkpoint(f, inputs), TapeError, says({"multiply: input 1", "on a tape", "checkpoint"}));
    BOOST_CHECK_EXCEPTION(checkpoint(in_another, inputs), TapeError, says({"multiply: input 1", "on a tape"}));
    BOOST_CHECK_EXCEPTION(checkpoint(as_it_is, inputs), TapeError, says({"checkpoint: output 0", "on a tape"}));
  }
  const NoRecording no_tape;
  check_equal(checkpoint(f, std::span(&x, 1)).front().value(), {5, 14});
}

BOOST_AUTO_TEST_CASE(what_the_function_reads_without_a_tape_is_a_constant) {
  Tape tape;
  const Variable x = tape.leaf(vector_of({5, 7})), outside = tape.leaf(vector_of({1, 2}));
  const VariableFunction f = [outside](std::span<const Variable> v) {
    Variable constant;
    {
      const NoRecording no_tape;
      constant = ops::scale(outside, 3);
    }
    return Variables{ops::multiply(v[0], constant)};
  };
  const VariableFunction in_another = [&f](std::span<const Variable> v) { return checkpoint(f, v); };
  Variable sum;
  {
    const Recording recording(tape);
    sum = ops::add(ops::sum(checkpoint(f, std::span(&x, 1)).front()),
                   ops::sum(checkpoint(in_another, std::span(&x, 1)).front()));
  }
  tape.backward(sum);
  check_equal(tape.gradient(x), {6, 12});
}

BOOST_AUTO_TEST_CASE(a_tape_of_its_own_is_none_from_outside) {
  Tape tape;
  const Variable x = tape.leaf(vector_of({5, 7}));
  const VariableFunction f = [](std::span<const Variable> v) {
    Tape own;
    const Variable leaf = own.leaf(v[0].value());
    Variable square;
    {
      const Recording recording(own);
      square = ops::sum(ops::multiply(leaf, leaf));
    }
    own.backward(square);
    return Variables{ops::multiply(v[0], Variable(own.gradient(leaf)))};
  };
  {
    const Recording recording(tape);
    tape.backward(ops::sum(checkpoint(f, std::span(&x, 1)).front()));
  }
  check_equal(tape.gradient(x), {10, 14});
}

BOOST_AUTO_TEST_CASE(a_parameter_changed_before_backward_is_refused) {
  const Block block;
  Tape tape;
  const Recording recording(tape);
  const Variable y = once(block, tape.leaf(random_tensor({6, 16}, DType::kFloat32, 9)));
  Parameter bias = block.bias;
  bias.mutable_value().fill(0);
  BOOST_CHECK_EXCEPTION(tape.backward(ops::sum(y)), TapeError,
                        says({"'checkpoint'", "[24]", "was changed after the forward"}));
}

BOOST_AUTO_TEST_CASE(a_frozen_parameter_changed_before_backward_is_refused) {
  for (const auto& wrap : {once, nested}) {
    const Block block;
    for (Parameter p : {block.in, block.bias, block.out}) p.set_requires_gradient(false);
    const auto refused = [&](Parameter changed) {
      Tape tape;
      const Recording recording(tape);
      const Variable y = wrap(block, tape.leaf(random_tensor({6, 16}, DType::kFloat32, 9)));
      changed.mutable_value().fill(0);
      BOOST_CHECK_EXCEPTION(tape.backward(ops::sum(y)), TapeError,
                            says({"'checkpoint'", "was changed after the forward"}));
      BOOST_CHECK(!changed.gradient().defined());
    };
    refused(block.bias);
    refused(block.out);
  }
}

BOOST_AUTO_TEST_CASE(parameters_read_are_told_apart_by_whether_they_are_frozen) {
  Parameter frozen("frozen", vector_of({2, 3}));
  const Parameter other("other", vector_of({5, 7}));
  frozen.set_requires_gradient(false);
  const ParametersRead read;
  ops::multiply(ops::multiply(frozen, other), frozen);
  BOOST_CHECK((read.all() == std::vector<Parameter>{frozen, other}));
  BOOST_CHECK((read.distinct() == std::vector<Parameter>{other}));
}

BOOST_AUTO_TEST_CASE(the_second_forward_has_the_whole_context_of_the_first) {
  std::vector<ForwardContext> seen;
  const VariableFunction f = [&](std::span<const Variable> v) {
    seen.push_back(forward_context());
    return Variables{ops::multiply(v[0], v[0])};
  };
  const ForwardContext outside = forward_context();
  Tape tape;
  const Variable x = tape.leaf(vector_of({2, 3}));
  Variable y;
  {
    const ScopedValue first(forward_context(), odd_context());
    const Recording recording(tape);
    y = checkpoint(f, std::span(&x, 1)).front();
  }
  const Tensor seed = vector_of({1, 1});
  tape.backward(std::span(&y, 1), std::span(&seed, 1));
  BOOST_REQUIRE_EQUAL(seen.size(), 2u);
  BOOST_CHECK(seen[0] == odd_context());
  BOOST_CHECK(seen[1] == odd_context().repeated());
  BOOST_CHECK(seen[1].recompute);
  BOOST_CHECK(forward_context() == outside);
  check_equal(tape.gradient(x), {4, 6});
}

BOOST_AUTO_TEST_CASE(gradients_of_earlier_passes_are_kept) {
  Parameter p("p", vector_of({2, 3}));
  const VariableFunction f = [p](std::span<const Variable> v) { return Variables{ops::multiply(v[0], p)}; };
  for (int pass = 1; pass <= 2; ++pass) {
    Tape tape;
    const Recording recording(tape);
    const Variable x = vector_of({5, 7});
    tape.backward(ops::sum(checkpoint(f, std::span(&x, 1)).front()));
    check_equal(p.gradient(), {5.0 * pass, 7.0 * pass});
  }
}

BOOST_AUTO_TEST_SUITE_END()
