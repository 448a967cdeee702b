#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gradcache_checks.h"
#include "tapecache/autograd/function.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/autograd/variable.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/layers.h"
#include "tapecache/ops/reduce.h"

// Encoders, losses and hooks that a step meets rarely.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

Loss pair_loss() {
  return [](std::span<const Variable> r) { return info_nce(r[0], r[1], {.scale = 3.0}); };
}

std::vector<double> gradient_of(Parameter p) {
  const std::vector<double> gradient = p.gradient().defined() ? doubles(p.gradient()) : std::vector<double>{};
  p.clear_gradient();
  return gradient;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_corners)

BOOST_AUTO_TEST_CASE(a_parameter_that_is_a_result_itself) {
  const Encoder encoder(1, DType::kFloat64, 0);
  Parameter table("table", random_values({8, 4}, 2)), size("size", random_values({8}, 3));
  Parameter total("total", Tensor::full({}, 2.0, DType::kFloat64));
  const Tensor x = random_values({8, 5}, 4);
  int hooks = 0;
  for (Parameter p : {table, size, total}) p.add_hook([&](Parameter&) { ++hooks; });
  const auto encode_table = [&](const Tensor&) { return Encoded{{{"", table}}, {{"size", size, 0.5}}}; };
  const std::vector<Tower> towers{{"x", x, encoder}, {"table", x, encode_table}};
  for (const std::int64_t kept : {0, 9}) {
    StepOptions options;
    options.cut = MemoryPlan{{4, 8}, kept};
    hooks = 0;
    const StepResult result = cached_step(towers, pair_loss(), options);
    BOOST_TEST(hooks == 2);
    BOOST_TEST(result.parameters.size() == 5u);
    const std::vector<double> found = gradient_of(table), of_size = gradient_of(size);
    direct_step(towers, pair_loss());
    BOOST_TEST(max_difference(found, gradient_of(table)) <= 1e-15);
    BOOST_TEST(max_difference(of_size, gradient_of(size)) <= 1e-15);
  }
  const Comparison found = compare(towers, pair_loss(), {{8}});
  BOOST_TEST(found.parameters.size() == 5u);
  // The loss too.
  const Loss itself = [&](std::span<const Variable>) { return Variable(total); };
  StepOptions options{{8}};
  options.allow_unused = true;
  hooks = 0;
  BOOST_TEST(cached_step(towers, itself, options).parameters.size() >= 1u);
  BOOST_TEST(gradient_of(total) == std::vector<double>{1.0});
  BOOST_TEST(hooks >= 1);
  // An exception takes it back.
  int calls = 0;
  const auto failing = [&](const Tensor&) {
    if (++calls == 2) throw std::runtime_error("enough");
    return Variable(table);
  };
  gradient_of(table);
  const std::vector<Tower> failing_towers{{"table", x, failing}, {"x", x, encoder}};
  BOOST_CHECK_THROW(cached_step(failing_towers, pair_loss(), {{8}}), std::runtime_error);
  BOOST_TEST(!table.gradient().defined());
}

BOOST_AUTO_TEST_CASE(auxiliary_losses_of_some_chunks_alone_are_refused) {
  const Encoder encoder(1, DType::kFloat64, 0.2);
  const Tensor x = random_values({8, 5}, 2);
  const double first = doubles(x)[0];
  const auto some = [&](const Tensor& chunk) {
    if (doubles(chunk)[0] == first) return Encoded{{{"", encoder(chunk)}}, {}};
    return with_size(encoder, "size", 0.5)(chunk);
  };
  const auto other_weight = [&](const Tensor& chunk) {
    return with_size(encoder, "size", doubles(chunk)[0] == first ? 1 : 2)(chunk);
  };
  const auto parts = [&](const auto& encode) {
    return std::vector<Tower>{Tower::from_chunks("x", std::vector{x.slice(0, 4), x.slice(4, 8)}, encode)};
  };
  for (const auto& towers : {parts(some), parts(other_weight)}) {
    BOOST_CHECK_EXCEPTION(cached_step(towers, nothing(), {}), ShapeError,
                          says({"'x'", "'size' of weight", "at first"}));
    BOOST_CHECK_EXCEPTION(direct_step(towers, nothing()), ShapeError, says({"'x'", "'size' of weight", "at first"}));
  }
  int calls = 0;
  const auto once = [&](const Tensor& chunk) {
    if (++calls == 1) return with_size(encoder, "size", 0.5)(chunk);
    return Encoded{{{"", encoder(chunk)}}, {}};
  };
  const std::vector<Tower> towers{{"x", x, once}};
  BOOST_CHECK_EXCEPTION(cached_step(towers, nothing(), {{8}}), ShapeError, says({"again", "no auxiliary loss"}));
}

BOOST_AUTO_TEST_CASE(auxiliary_losses_of_an_accumulated_step_do_not_depend_on_the_cut) {
  const Encoder a(1, DType::kFloat64, 0), b(2, DType::kFloat64, 0);
  const std::vector<Tower> towers{{"x", random_values({5, 5}, 3), a},
                                  {"y", random_values({10, 5}, 4), with_size(b, "size", 0.7)}};
  const auto loss = nothing();
  const StepResult expected = direct_step(towers, loss);
  const std::vector<double> gradient = gradient_of(b.w1);
  for (const std::vector<std::int64_t>& cut : {std::vector<std::int64_t>{3, 5}, {3, 7}, {5, 10}}) {
    const StepResult found = accumulated_step(towers, loss, {cut});
    BOOST_TEST(std::abs(found.loss.item() - expected.loss.item()) <= 1e-14);
    BOOST_REQUIRE(found.auxiliary.size() == 1u);
    BOOST_TEST(std::abs(found.auxiliary[0].mean - expected.auxiliary[0].mean) <= 1e-14);
    BOOST_TEST(max_difference(gradient_of(b.w1), gradient) <= 1e-14);
    BOOST_TEST(found.largest_chunks == cut);
  }
}

BOOST_AUTO_TEST_CASE(auxiliary_losses_of_two_towers_under_one_name) {
  const Encoder a(1, DType::kFloat64, 0.2), b(2, DType::kFloat64, 0.2);
  const Tensor x = random_values({8, 5}, 3), y = random_values({8, 5}, 4);
  const auto encode_x = with_size(a, "size", 0.5), encode_y = with_size(b, "size", 2);
  const std::vector<Tower> towers{{"x", x, encode_x}, {"y", y, encode_y}};
  begin_random_step(1, 1);
  const StepResult expected = cached_step(towers, pair_loss(), {{4}});
  begin_random_step(1, 1);
  std::vector<CachedBatch> batches{{"x", {cached(encode_x, x.slice(0, 3))}}, {"y", {}}};
  batches[0].chunks.push_back(cached(encode_x, x.slice(3, 8), {.after = &batches[0].chunks[0]}));
  batches[1].chunks.push_back(cached(encode_y, y));
  const StepResult found = cached_backward(batches, pair_loss());
  BOOST_REQUIRE(found.auxiliary.size() == 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    BOOST_TEST(std::abs(found.auxiliary[i].mean - expected.auxiliary[i].mean) <= 1e-14);
    BOOST_TEST(found.auxiliary[i].weight == expected.auxiliary[i].weight);
  }
  BOOST_TEST(std::abs(found.loss.item() - expected.loss.item()) <= 1e-13);
  BOOST_TEST(found.largest_chunks == (std::vector<std::int64_t>{5, 8}));
}

BOOST_AUTO_TEST_CASE(integer_outputs_of_a_direct_step_in_pieces) {
  const Encoder encoder(1, DType::kFloat64, 0);
  const auto encode = [&](const Tensor& x) {
    return std::vector<Variable>{encoder(x), Variable(Tensor::full({x.size(0)}, 3, DType::kInt64))};
  };
  const Loss loss = [](std::span<const Variable> r) {
    BOOST_TEST(r[1].value().to_vector<std::int64_t>() == std::vector<std::int64_t>(8, 3));
    return ops::sum(ops::exp(r[0]));
  };
  const Tensor x = random_values({8, 5}, 2);
  const std::vector<Tower> cut{{"x", x, encode}};
  const std::vector<Tower> given{Tower::from_chunks("x", std::vector{x.slice(0, 3), x.slice(3, 8)}, encode)};
  StepOptions options{{4}};
  options.reproducible_block = 2;
  check_equal(compare(cut, loss, options), 0);
  check_equal(compare(given, loss, {}), 1e-12);
}

/// A loss that takes a backward of its own: the hooks of what that trains run, once each time.
BOOST_AUTO_TEST_CASE(a_tape_within_the_loss_runs_its_own_hooks) {
  const Encoder encoder(1, DType::kFloat64, 0);
  const std::vector<Tower> towers{{"x", random_values({8, 5}, 3), encoder}};
  Parameter w = encoder.w1, probed("probed", Tensor::scalar(2.0));
  int hooks = 0, probes = 0;
  w.add_hook([&](Parameter&) { ++hooks; });
  probed.add_hook([&](Parameter&) { ++probes; });
  const ForeignParameters theirs("theirs");
  const auto probe = [&](const Tensor&) {
    Tape tape;
    Variable y;
    {
      const Recording recording(tape);
      y = ops::scale(probed, 3);
    }
    tape.backward(y);
  };
  // Within the backward of the step's own tape.
  const Loss loss = [&](std::span<const Variable> r) {
    return ops::add(ops::sum(r[0]), theirs.record("theirs", Tensor::scalar(1.0), probe));
  };
  int steps = 0;
  const auto check = [&] {
    ++steps;
    BOOST_TEST(hooks == steps);
    BOOST_TEST(probes == steps);
  };
  direct_step(towers, loss);
  check();
  cached_step(towers, loss, {{4}});
  check();
  accumulated_step(towers, loss, {{8}});
  check();
}

/// Under the caller's Autocast in each kind of step the encoders are, and the loss is not.
BOOST_AUTO_TEST_CASE(the_loss_is_taken_under_no_autocast) {
  const Encoder encoder(1, DType::kFloat32, 0);
  const Tensor x = random_values({8, 5}, 3, DType::kFloat32);
  DType in_encoder = DType::kBool, in_loss = DType::kBool;
  const auto encode = [&](const Tensor& chunk) {
    in_encoder = Autocast::current();
    return encoder(chunk);
  };
  const Loss loss = [&](std::span<const Variable> r) {
    in_loss = Autocast::current();
    return ops::sum(r[0]);
  };
  const std::vector<Tower> towers{{"x", x, encode}};
  const auto check = [&](const std::string& step, const auto& take) {
    in_encoder = in_loss = DType::kBool;
    const Autocast ambient(DType::kBFloat16);
    take();
    BOOST_TEST((in_encoder == DType::kBFloat16), step);
    BOOST_TEST((in_loss == DType::kFloat32), step);
    BOOST_TEST((Autocast::current() == DType::kBFloat16), step);
  };
  check("direct", [&] { direct_step(towers, loss); });
  check("cached", [&] { cached_step(towers, loss, {{4}}); });
  check("accumulated", [&] { accumulated_step(towers, loss, {{4}}); });
  check("by hand", [&] {
    const CachedForward forward = cached(Tower("x", x, encode));
    const std::vector<CachedBatch> batches{{"x", {forward}}};
    cached_backward(batches, loss);
  });
}

BOOST_AUTO_TEST_CASE(an_empty_step_is_not_compared) {
  const auto step = [] { return StepResult(); };
  BOOST_CHECK_EXCEPTION(compare_steps({}, step, {}), ValueError,
                        says({"compare_steps: the reference step is an empty"}));
  BOOST_CHECK_EXCEPTION(compare_steps(step, {}, {}), ValueError, says({"compare_steps: the other step is an empty"}));
}

BOOST_AUTO_TEST_CASE(a_comparison_runs_no_hooks_and_leaves_all_gradients) {
  const Encoder a(1, DType::kFloat64, 0.1), b(2, DType::kFloat64, 0.1);
  const std::vector<Tower> towers{{"x", random_values({8, 5}, 3), a}, {"y", random_values({8, 5}, 4), b}};
  int hooks = 0;
  Parameter w = a.w1;
  w.add_hook([&](Parameter& p) {
    ++hooks;
    p.mutable_value().fill(0);
  });
  Parameter other = b.w1;
  other.mutable_gradient() = random_values(other.value().shape(), 5);
  const std::vector<double> before = doubles(other.gradient());
  const std::vector<Parameter> one{a.w1};
  check_equal(compare(towers, pair_loss(), {{2}}, one), 1e-12);
  BOOST_TEST(hooks == 0);
  BOOST_TEST(doubles(other.gradient()) == before);
  for (const Parameter& p : {a.w1, a.b1, a.w2, b.b1, b.w2}) BOOST_TEST(!p.gradient().defined());
  GradCache grad_cache(pair_loss(), {{2}}, {.every = 1, .samples = 4});
  grad_cache.step(towers);
  BOOST_TEST(hooks == 1);
}

BOOST_AUTO_TEST_CASE(a_backward_by_hand_runs_hooks_and_can_be_undone) {
  const Encoder encoder(1, DType::kFloat64, 0);
  const Tensor x = random_values({8, 5}, 2), c = random_values({8, 4}, 3);
  int hooks = 0, calls = 0;
  Parameter w = encoder.w1;
  w.add_hook([&](Parameter&) { ++hooks; });
  const auto failing = [&](const Tensor& chunk) {
    return ++calls == 4 ? throw std::runtime_error("enough") : encoder(chunk);
  };
  const CachedForward forward = cached(Tower::from_chunks("x", std::vector{x.slice(0, 3), x.slice(3, 8)}, failing));
  BOOST_CHECK_THROW(forward.backward(std::span(&c, 1)), std::runtime_error);
  BOOST_TEST(!w.gradient().defined());
  BOOST_TEST(hooks == 0);
  forward.backward(std::span(&c, 1));
  BOOST_TEST(w.gradient().defined());
  BOOST_TEST(hooks == 1);
}

BOOST_AUTO_TEST_CASE(a_hook_that_takes_the_gradient_of_a_deferred_step) {
  const Encoder a(1, DType::kFloat64, 0), b(2, DType::kFloat64, 0);
  const std::vector<Tower> towers{{"x", random_values({8, 5}, 3), a}, {"y", random_values({8, 5}, 4), b}};
  Parameter w = a.w1;
  w.add_hook([](Parameter& p) { p.clear_gradient(); });
  StepOptions options{{4}};
  options.deferred = true;
  const StepResult result = cached_step(towers, pair_loss(), options);
  BOOST_TEST((result.status == StepStatus::kDeferred));
  BOOST_TEST(result.non_finite.item() == 0);
  BOOST_TEST(b.w1.gradient().defined());
}

BOOST_AUTO_TEST_CASE(a_parameter_given_another_tensor_between_the_forwards_is_an_error) {
  const Encoder encoder(1, DType::kFloat64, 0);
  const std::vector<Tower> towers{{"x", random_values({8, 5}, 3), encoder}};
  Parameter w = encoder.w1;
  for (const std::int64_t kept : {0, 9}) {
    for (const bool in_place : {false, true}) {
      const Loss loss = [&](std::span<const Variable> r) {
        if (in_place) w.mutable_value().fill(1);
        else w.mutable_value() = w.value().clone();
        return ops::sum(ops::exp(r[0]));
      };
      StepOptions options;
      options.cut = MemoryPlan{{4}, kept};
      BOOST_CHECK_EXCEPTION(cached_step(towers, loss, options), ValueError,
                            says({"'w1'", "changed between forward and backward"}));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_self_check_beside_a_budget_for_chunks_by_tokens) {
  const Encoder encoder(1, DType::kFloat64, 0);
  const Tensor x = random_values({8, 5}, 3);
  const std::vector<Tower> towers{{"x", x, encoder}, {"y", x, encoder}};
  const StepOptions options{.cut = MemoryBudget{allocator().stats().current + (1 << 20), 16}};
  GradCache grad_cache(pair_loss(), options, {.every = 1, .samples = 4});
  grad_cache.step(towers);
  check_equal(*grad_cache.checked(), 1e-12);
  const std::vector<Tower> given{Tower::from_chunks("x", std::vector{x.slice(0, 4), x.slice(4, 8)}, encoder),
                                 towers[1]};
  GradCache other(pair_loss(), {{4}}, {.every = 1, .samples = 4});
  BOOST_CHECK_EXCEPTION(other.step(given), ValueError, says({"self-check", "'x'", "made of chunks"}));
}

BOOST_AUTO_TEST_CASE(averages_move_once_however_often_a_step_is_tried) {
  const models::Builder builder(5, DType::kFloat64);
  const models::BatchNorm norm(builder, 5);
  const Encoder heavy(1, DType::kFloat64, 0, 5, 64);
  const Tensor x = random_values({64, 5}, 3);
  const auto normalized = [&](const Tensor& batch) { return norm(Variable(batch)); };
  const Parameter last("last", random_values({5, 4}, 4));
  const Loss loss = [&](std::span<const Variable> r) {
    return ops::sum(ops::multiply(ops::sum(r[0], 0), ops::sum(r[1], 0)));
  };
  const std::vector<Tower> towers{{"heavy", x, [&](const Tensor& t) { return ops::linear(heavy(t), last); }},
                                  {"norm", x, normalized}};
  const auto averages = [&] {
    std::vector<double> values = doubles(norm.running_mean);
    Tensor mean = norm.running_mean;
    mean.fill(0);
    return values;
  };
  direct_step(towers, loss);
  const std::vector<double> expected = averages();
  StepOptions options;
  options.cut = MemoryPlan{{16, 64}, 5};
  const std::size_t base = allocator().stats().current, peak = cached_step(towers, loss, options).peak_bytes - base;
  BOOST_TEST(averages() == expected);
  int retried = 0;
  for (std::size_t room = peak / 4; room < peak; room += 512) {
    const MemoryLimit limit(allocator().stats().current + room);
    try {
      retried += cached_step(towers, loss, options).retries > 0;
      BOOST_TEST(averages() == expected);
    } catch (const OutOfMemory&) {
      BOOST_TEST(averages() == std::vector<double>(5, 0));
    }
  }
  BOOST_TEST(retried > 0);
  check_equal(compare(towers, loss, options), 1e-9);
  BOOST_TEST(averages() == std::vector<double>(5, 0));
  // Nor does a step that gave nothing move them.
  const Loss infinite = [&](const Representations& r) {
    return ops::scale(loss(r), std::numeric_limits<double>::infinity());
  };
  BOOST_TEST((cached_step(towers, infinite, options).status == StepStatus::kNonFiniteLoss));
  BOOST_TEST(averages() == std::vector<double>(5, 0));
}

BOOST_AUTO_TEST_SUITE_END()
