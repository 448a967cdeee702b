#include <cmath>
#include <vector>

#include "checks.h"
#include "op_table.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/update.h"

using namespace tapecache;
using namespace tapecache::testing;

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
