#include "checks.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "op_table.h"
#include "tape_checks.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/parameters_read.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/autograd/undo_log.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/op_scope.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

std::size_t bytes_in_use() { return allocator().stats().current; }

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
  const auto& node = tape.nodes()[0];
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
  const Tensor input = random_tensor({50, 40}, DType::kFloat64, 1);
  const Tensor weight = random_tensor({30, 40}, DType::kFloat64, 2);
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

BOOST_AUTO_TEST_CASE(a_tape_that_ends_is_not_returned_to) {
  auto outer = std::make_unique<Tape>();
  Tape inner;
  const Recording first(*outer);
  {
    const Recording second(inner);
    outer.reset();
    BOOST_CHECK(Tape::active() == &inner);
  }
  BOOST_CHECK(Tape::active() == nullptr);
}

// Scopes live on the stack, so that they end in order and on their thread.
template <class Scope, class... Arguments>
concept MadeByNew = requires(Arguments... arguments) {
  new Scope(arguments...);
};
template <class Scope>
concept MadeByNewInArrays = requires {
  new Scope[2];
};
static_assert(MadeByNew<Tape> && MadeByNewInArrays<Tape>);
static_assert(!MadeByNew<Recording, Tape&> && !MadeByNew<NoRecording> && !MadeByNew<ParametersRead>);
static_assert(!MadeByNew<AnomalyMode> && !MadeByNew<Autocast, DType> && !MadeByNew<UndoLog>);
static_assert(!MadeByNew<OpScope, const char*> && !MadeByNew<ScopedValue<bool>, bool&>);
static_assert(!MadeByNewInArrays<NoRecording> && !MadeByNewInArrays<UndoLog>);

BOOST_AUTO_TEST_CASE(a_buffer_is_undone_whichever_part_of_it_changed_first) {
  Tensor whole = Tensor::from({1.0, 2.0, 3.0, 4.0}, {4});
  for (const auto& [begin, end] : {std::pair{0, 2}, {2, 4}, {1, 3}, {0, 4}}) {
    Tensor part = whole.slice(begin, end);
    const UndoLog log;
    before_change(part);
    part.fill(7);
    before_change(whole);
    whole.fill(8);
    before_change(part);
    part.fill(9);
    UndoLog within;
    before_change(part);
    part.fill(10);
    within.keep();
  }
  BOOST_TEST(doubles(whole) == std::vector<double>({1, 2, 3, 4}));
}

/// With a tape and without, on whatever thread a block runs, and with any number of them.
BOOST_AUTO_TEST_CASE(an_op_that_is_refused_in_a_body_has_drawn_no_random_numbers) {
  begin_random_step(1, 2);
  const RandomState before = random_state();
  const Variable x(Tensor::full({8, 2}, 1));
  BOOST_CHECK_EXCEPTION(parallel_for(3, 1, [&](std::int64_t, std::int64_t) { ops::dropout(x, 0.5); }), TapeError,
                        says({"dropout: called by a body of parallel_for"}));
  BOOST_TEST((random_state() == before));
}

BOOST_AUTO_TEST_CASE(ops_are_refused_in_bodies_of_parallel_for) {
  const int before = thread_count();
  const Parameter p("p", vector_of({1, 2}));
  for (const int threads : {1, 2, 4}) {
    set_thread_count(threads);
    for (const bool recorded : {false, true}) {
      for (const std::int64_t blocks : {1, 64}) {
        Tape tape;
        std::optional<Recording> recording;
        if (recorded) recording.emplace(tape);
        std::atomic<std::int64_t> refused{0};
        const auto body = [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            try {
              ops::scale(p, 2);
            } catch (const TapeError& e) {
              refused += std::string(e.what()).starts_with("scale: called by a body of parallel_for");
            }
          }
        };
        parallel_for(blocks, 1, body);
        BOOST_TEST(refused == blocks);
        BOOST_TEST(tape.nodes().empty());
        parallel_for(2, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) parallel_for(blocks, 1, body);
        });
        BOOST_TEST(refused == 3 * blocks);
        ops::scale(p, 2);
        BOOST_TEST(tape.nodes().size() == (recorded ? 1u : 0u));
      }
    }
    Tape tape;
    Variable y;
    {
      const Recording recording(tape);
      y = ops::sum(ops::scale(p, 2));
    }
    BOOST_CHECK_EXCEPTION(parallel_for(3, 1, [&](std::int64_t, std::int64_t) { tape.backward(y); }), TapeError,
                          says({"backward: called by a body of parallel_for"}));
    BOOST_TEST(!p.gradient().defined());
    tape.backward(y);
    Parameter(p).clear_gradient();
  }
  set_thread_count(before);
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

BOOST_AUTO_TEST_CASE(a_refused_op_is_no_use_of_a_parameter) {
  Parameter p("p", vector_of({3}));
  int calls = 0;
  p.add_hook([&](Parameter&) { ++calls; });
  Tape tape, other;
  const Variable foreign = other.leaf(vector_of({2}));
  const Recording recording(tape);
  BOOST_CHECK_THROW(ops::multiply(p, foreign), TapeError);
  const Variable one = ops::scale(tape.leaf(vector_of({1})), 2);
  tape.backward(ops::multiply(one, p));
  check_equal(p.gradient(), {2});
  BOOST_CHECK_EQUAL(calls, 1);
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
  BOOST_CHECK_EXCEPTION(Parameter("ids", Tensor::zeros({2}, DType::kInt64)), DTypeError, says({"ids", "int64"}));
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
