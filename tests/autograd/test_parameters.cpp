#include "checks.h"

#include <string>
#include <utility>
#include <vector>

#include "tape_checks.h"
#include "tapecache/autograd/function.h"
#include "tapecache/autograd/parameters_read.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::testing;

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

BOOST_AUTO_TEST_CASE(an_empty_hook_is_refused) {
  Parameter p("p", vector_of({1}));
  BOOST_CHECK_EXCEPTION(p.add_hook({}), ValueError, says({"parameter 'p'", "hook", "empty"}));
  p.run_hooks();
}

BOOST_AUTO_TEST_CASE(hooks_that_change_the_hooks) {
  Parameter p("p", vector_of({1, 2}));
  std::string calls;
  p.add_hook([&calls](Parameter& self) {
    self.clear_hooks();
    for (int i = 0; i < 100; ++i) self.add_hook([&calls](Parameter&) { calls += "c"; });
    calls += "a";
  });
  p.add_hook([&calls](Parameter&) { calls += "b"; });
  p.run_hooks();
  BOOST_TEST(calls == "ab");
  p.run_hooks();
  BOOST_TEST(calls == "ab" + std::string(100, 'c'));
}

BOOST_AUTO_TEST_CASE(a_failed_derivative_leaves_no_gradient_half_made) {
  Parameter fresh("fresh", vector_of({1, 2})), other("other", vector_of({3, 4}));
  other.mutable_gradient() = vector_of({5, 6});
  Tape tape;
  const Variable leaf = tape.leaf(vector_of({1, 2}));
  const Variable y = [&] {
    const Recording recording(tape);
    return record("mine", vector_of({0, 0}), {fresh, other, leaf}, {}, [](Backward& ctx) {
      for (std::size_t i = 0; i < 3; ++i) ctx.gradient(i);
      throw ValueError("no luck");
    });
  }();
  BOOST_CHECK_THROW(backward(tape, y, vector_of({1, 1})), ValueError);
  BOOST_CHECK(!fresh.gradient().defined());
  check_equal(other.gradient(), {5, 6});
  BOOST_CHECK(!tape.gradient(leaf).defined());
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

BOOST_AUTO_TEST_CASE(foreign_parameters_get_the_gradients_of_what_is_recorded) {
  ForeignParameters theirs("theirs");
  std::vector<std::vector<double>> given;
  const auto apply = [&](double value) {
    return theirs.record("theirs", Tensor::full({2}, value), [&](const Tensor& dy) { given.push_back(doubles(dy)); });
  };
  BOOST_TEST(!apply(1).has_history());
  {
    const ParametersRead read;
    apply(1);
    BOOST_TEST(read.distinct().size() == 1u);
  }
  const auto backward = [&] {
    Tape tape;
    Variable loss;
    {
      const Recording recording(tape);
      const Variable first = apply(2), second = apply(5);
      loss = ops::sum(ops::add(ops::scale(first, 3), ops::scale(second, 4)));
      apply(7);  // on which nothing depends
    }
    tape.backward(loss);
    return std::exchange(given, {});
  };
  BOOST_TEST((backward() == std::vector<std::vector<double>>{{4, 4}, {3, 3}}));
  const ForeignParameters same = theirs;
  theirs.set_frozen(true);
  BOOST_TEST(same.frozen());
  {
    Tape tape;
    const Recording recording(tape);
    BOOST_TEST(!apply(2).has_history());
  }
  BOOST_CHECK_EXCEPTION(theirs.record("theirs", Tensor::zeros({1}), {}), ValueError,
                        says({"theirs", "empty function"}));
}

BOOST_AUTO_TEST_SUITE_END()
