#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "checks.h"
#include "op_table.h"
#include "philox_reference.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/core/philox.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/attention.h"
#include "tapecache/ops/cross_entropy.h"
#include "tapecache/ops/dropout.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/pooling.h"
#include "tapecache/ops/reduce.h"
#include "tapecache/ops/softmax.h"
#include "tapecache/ops/update.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

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
      {"max_pool", [](const Variable& x) { return ops::max_pool(ops::reshape(x, {1, x.size(0), 1})); }},
      {"mean_pool", [](const Variable& x) { return ops::mean_pool(ops::reshape(x, {1, x.size(0), 1})); }},
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

BOOST_AUTO_TEST_SUITE(float32_functions)

BOOST_AUTO_TEST_CASE(limits) {
  const auto check = [](Variable (*op)(const Variable&), const std::vector<double>& x, const std::vector<double>& y) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
      check_equal(ops::scale(op(vector_of(x).to(dtype)), 1).value(), y);
    }
  };
  check(ops::exp, {-kInfinity, -1e4, 0, 1e4, kInfinity}, {0, 0, 1, kInfinity, kInfinity});
  check(ops::log, {0, 1, kInfinity}, {-kInfinity, 0, kInfinity});
  check(ops::sqrt, {0, 4, kInfinity}, {0, 2, kInfinity});
  check(ops::rsqrt, {4, kInfinity}, {0.5, 0});
  check(ops::tanh, {-kInfinity, -50, 0, 50, kInfinity}, {-1, -1, 0, 1, 1});
  check(ops::sigmoid, {-kInfinity, -1e4, 0, 1e4, kInfinity}, {0, 0, 0.5, 1, 1});
  check(ops::softplus, {-kInfinity, -1e4, 1e4, kInfinity}, {0, 0, 1e4, kInfinity});
  check(ops::relu, {-kInfinity, kInfinity}, {0, kInfinity});
  for (const auto& op : {ops::gelu, ops::gelu_tanh, ops::quick_gelu, ops::silu}) {
    check(op, {-1e4, 0, 1e4, kInfinity}, {0, 0, 1e4, kInfinity});
  }
  BOOST_CHECK(std::isnan(ops::log(Tensor::scalar(-1.0f)).value().item()));
  BOOST_CHECK(std::isnan(ops::sqrt(Tensor::scalar(-1.0f)).value().item()));
}

BOOST_AUTO_TEST_CASE(accurate_over_their_whole_range) {
  struct Case {
    const char* name;
    Variable (*op)(const Variable&);
    double (*f)(double);
    double low, high;
    bool logarithmic;  // the sweep runs over x = eᵗ
    double relative, absolute;
  };
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const auto gelu = [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); };
  const auto softplus = [](double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::abs(x))); };
  const Case cases[] = {
      {"exp", ops::exp, [](double x) { return std::exp(x); }, -103.3, 88.7, false, 1e-6, 2e-45},
      {"log", ops::log, [](double x) { return std::log(x); }, -103.1, 88.7, true, 1e-6, 0},
      {"log near 1", ops::log, [](double x) { return std::log(x); }, -0.01, 0.01, true, 1e-6, 0},
      {"tanh", ops::tanh, [](double x) { return std::tanh(x); }, -12.3, 12.1, false, 1e-6, 0},
      {"tanh near 0", ops::tanh, [](double x) { return std::tanh(x); }, -80.0, 0.0, true, 1e-6, 0},
      {"sigmoid", ops::sigmoid, sigmoid, -85.3, 30.1, false, 1e-6, 2e-45},
      {"gelu", ops::gelu, gelu, -12.3, 12.1, false, 1e-6, 1e-6},
      {"softplus", ops::softplus, softplus, -85.3, 30.1, false, 1e-6, 2e-7},
  };
  constexpr int kPoints = 200'003;
  for (const Case& c : cases) {
    std::vector<float> x;
    for (int i = 0; i < kPoints; ++i) {
      const double t = c.low + (c.high - c.low) * i / (kPoints - 1);
      x.push_back(static_cast<float>(c.logarithmic ? std::exp(t) : t));
    }
    const std::vector<double> y = doubles(c.op(Tensor::from(x, {kPoints})).value());
    double worst = 0;
    float at = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double expected = c.f(static_cast<double>(x[i]));
      if (y[i] == expected) continue;
      const double difference = std::isnan(y[i]) ? kInfinity : std::abs(y[i] - expected);
      const double excess = difference / (c.relative * std::abs(expected) + c.absolute);
      if (excess > worst) {
        worst = excess;
        at = x[i];
      }
    }
    BOOST_CHECK_MESSAGE(worst <= 1, c.name << "(" << at << ") is off by " << worst << " times what is allowed");
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(random_numbers)

BOOST_AUTO_TEST_CASE(published_philox_vectors) {
  struct Vector {
    std::array<std::uint32_t, 4> counter;
    std::array<std::uint32_t, 2> key;
    std::array<std::uint32_t, 4> expected;
  };
  const Vector vectors[] = {  // Random123, kat_vectors
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Vector& v : vectors) {
    const auto found = philox4x32(v.counter, v.key);
    BOOST_CHECK_EQUAL_COLLECTIONS(found.begin(), found.end(), v.expected.begin(), v.expected.end());
    const PhiloxReference reference{{v.counter[0], v.counter[1], v.counter[2], v.counter[3]}, {v.key[0], v.key[1]}};
    for (int i = 0; i < 4; ++i) BOOST_CHECK_EQUAL(reference.word(i), v.expected[static_cast<std::size_t>(i)]);
  }
}

BOOST_AUTO_TEST_CASE(uniform_stays_below_one) {
  BOOST_CHECK_EQUAL(uniform(0), 0.0f);
  BOOST_CHECK_EQUAL(uniform(0xffffffff), 1 - 0x1p-24f);
}

BOOST_AUTO_TEST_CASE(dropout_does_not_depend_on_how_the_batch_is_split) {
  const Tensor x = random_tensor({10, 7}, DType::kFloat32, 3);
  begin_random_step(5, 6);
  const Tensor whole = ops::dropout(x, 0.4).value();
  for (const std::int64_t chunk : {1, 3, 4}) {
    for (std::int64_t begin = 0; begin < 10; begin += chunk) {
      const std::int64_t end = std::min<std::int64_t>(10, begin + chunk);
      begin_random_step(5, 6);
      random_state().first_sample = begin;
      BOOST_CHECK(same_bits(ops::dropout(x.slice(begin, end), 0.4).value(), whole.slice(begin, end).clone()));
    }
  }
}

BOOST_AUTO_TEST_CASE(each_call_step_and_seed_draws_anew) {
  const Tensor x = Tensor::full({4, 64}, 1);
  begin_random_step(1, 1);
  const Tensor first = ops::dropout(x, 0.5).value();
  const Tensor second_call = ops::dropout(x, 0.5).value();
  begin_random_step(1, 2);
  const Tensor other_step = ops::dropout(x, 0.5).value();
  begin_random_step(2, 1);
  const Tensor other_seed = ops::dropout(x, 0.5).value();
  begin_random_step(1, 1);
  const Tensor again = ops::dropout(x, 0.5).value();
  BOOST_CHECK(same_bits(first, again));
  for (const Tensor& other : {second_call, other_step, other_seed}) BOOST_CHECK(!same_bits(first, other));
  BOOST_CHECK(!same_bits(first.slice(0, 1).clone(), first.slice(1, 2).clone()));
}

BOOST_AUTO_TEST_CASE(dropout_of_probability_0_takes_a_call_number) {
  begin_random_step(1, 1);
  const Variable x = Tensor::full({2, 3}, 1);
  BOOST_CHECK(ops::dropout(x, 0).value().shares_storage(x.value()));
  BOOST_CHECK_EQUAL(random_state().key.call, 1u);
}

BOOST_AUTO_TEST_CASE(dropout_keeps_the_mean) {
  begin_random_step(11, 0);
  const Tensor y = ops::dropout(Tensor::full({1000, 100}, 1), 0.3).value();
  const double mean = ops::mean(y).value().item();
  BOOST_CHECK(std::abs(mean - 1) <= 0.01);  // five standard deviations are 0.0104
}

BOOST_AUTO_TEST_CASE(dropout_saves_no_mask) {
  Tape tape;
  const Variable x = tape.leaf(Tensor::full({4, 4}, 1));
  const Recording recording(tape);
  ops::dropout(x, 0.5);
  BOOST_REQUIRE_EQUAL(tape.nodes().size(), 1u);
  BOOST_CHECK(tape.nodes()[0].saved.empty());
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

BOOST_AUTO_TEST_SUITE(updates)

struct Moments {
  std::vector<double> value, m, v;
};

void naive_adamw(const kernels::AdamW& s, const std::vector<double>& gradient, Moments& state) {
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const double g = gradient[i] * s.gradient_scale;
    state.m[i] = s.beta1 * state.m[i] + (1 - s.beta1) * g;
    state.v[i] = s.beta2 * state.v[i] + (1 - s.beta2) * g * g;
    const double adam = (state.m[i] / s.correction1) / (std::sqrt(state.v[i] / s.correction2) + s.epsilon);
    state.value[i] -= s.learning_rate * (adam + s.weight_decay * state.value[i]);
  }
}

BOOST_AUTO_TEST_CASE(adamw_against_plain_loops) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    const Shape shape{37, 41};
    Tensor value = random_tensor(shape, dtype, 1), m = Tensor::zeros(shape, dtype), v = Tensor::zeros(shape, dtype);
    Moments expected{doubles(value), doubles(m), doubles(v)};
    for (int t = 1; t <= 5; ++t) {
      const kernels::AdamW step{0.01, 0.9, 0.99, 1e-8, 0.1, 1 - std::pow(0.9, t), 1 - std::pow(0.99, t), 0.5};
      const Tensor gradient = random_tensor(shape, dtype, static_cast<std::uint64_t>(10 + t));
      ops::adamw_update(step, gradient, value, m, v);
      naive_adamw(step, doubles(gradient), expected);
    }
    const double tolerance = dtype == DType::kFloat64 ? 1e-12 : 1e-5;
    BOOST_CHECK(max_difference(doubles(value), expected.value) <= tolerance);
    BOOST_CHECK(max_difference(doubles(m), expected.m) <= tolerance);
    BOOST_CHECK(max_difference(doubles(v), expected.v) <= tolerance);
  }
}

BOOST_AUTO_TEST_CASE(sgd_against_plain_loops) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    Tensor value = random_tensor({1003}, dtype, 1), velocity = Tensor::zeros({1003}, dtype);
    std::vector<double> expected = doubles(value), speed(1003);
    const kernels::Sgd step{0.1, 0.9, 0.01, 0.5};
    for (std::uint64_t t = 1; t <= 5; ++t) {
      const Tensor gradient = random_tensor({1003}, dtype, 10 + t);
      ops::sgd_update(step, gradient, value, velocity);
      const std::vector<double> g = doubles(gradient);
      for (std::size_t i = 0; i < g.size(); ++i) {
        speed[i] = 0.9 * speed[i] + (0.5 * g[i] + 0.01 * expected[i]);
        expected[i] -= 0.1 * speed[i];
      }
    }
    const double tolerance = dtype == DType::kFloat64 ? 1e-12 : 1e-5;
    BOOST_CHECK(max_difference(doubles(value), expected) <= tolerance);
    BOOST_CHECK(max_difference(doubles(velocity), speed) <= tolerance);
  }
}

BOOST_AUTO_TEST_CASE(squared_norm_adds_in_float64) {
  const std::vector<Tensor> tensors{random_tensor({700, 301}, DType::kFloat32, 1), Tensor::full({}, 3),
                                    random_tensor({5}, DType::kFloat64, 2), Tensor::zeros({0})};
  long double expected = 0;
  for (const Tensor& t : tensors) {
    for (const double v : doubles(t)) expected += static_cast<long double>(v) * v;
  }
  BOOST_CHECK(std::abs(ops::squared_norm(tensors) / static_cast<double>(expected) - 1) <= 1e-12);
}

BOOST_AUTO_TEST_CASE(updates_do_not_depend_on_the_thread_count) {
  const int threads = thread_count();
  std::vector<Tensor> values;
  std::vector<double> norms;
  for (const int count : {1, 2, 4}) {
    set_thread_count(count);
    const Shape shape{500, 401};
    Tensor value = random_tensor(shape, DType::kFloat32, 1), m = Tensor::zeros(shape), v = Tensor::zeros(shape);
    const Tensor gradient = random_tensor(shape, DType::kFloat32, 2);
    ops::adamw_update({0.01, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01, 1}, gradient, value, m, v);
    ops::sgd_update({0.1, 0.9, 0, 1}, gradient, value, m);
    values.push_back(value);
    norms.push_back(ops::squared_norm(std::span(&value, 1)));
  }
  set_thread_count(threads);
  for (std::size_t i = 1; i < values.size(); ++i) {
    BOOST_CHECK(same_bits(values[i], values[0]));
    BOOST_CHECK(norms[i] == norms[0]);
  }
}

BOOST_AUTO_TEST_SUITE_END()
