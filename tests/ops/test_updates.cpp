#include <cmath>
#include <utility>
#include <vector>

#include "checks.h"
#include "op_table.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/ops/update.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

// Arrays that end within blocks, fill several, are smaller than a vector, or hold nothing; and two types in turn.
const std::vector<std::pair<Shape, DType>> kArrays{
    {{37, 41}, DType::kFloat32}, {{3}, DType::kFloat32},       {{200, 301}, DType::kFloat32}, {{0}, DType::kFloat32},
    {{5}, DType::kFloat64},      {{170, 99}, DType::kFloat64}, {{}, DType::kFloat32},         {{19}, DType::kFloat32},
};

double tolerance_of(DType dtype) { return dtype == DType::kFloat64 ? 1e-12 : 1e-5; }

/// A parameter and what plain loops make of it.
struct Moments {
  std::vector<double> value, m, v;
};

void naive_adamw(double rate, double scale, const kernels::AdamW& s, double t, const ops::AdamWParameter& p,
                 Moments& state) {
  const std::vector<double> gradient = doubles(p.gradient);
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const double g = gradient[i] * scale;
    state.m[i] = s.beta1 * state.m[i] + (1 - s.beta1) * g;
    state.v[i] = s.beta2 * state.v[i] + (1 - s.beta2) * g * g;
    const double adam =
        (state.m[i] / (1 - std::pow(s.beta1, t))) / (std::sqrt(state.v[i] / (1 - std::pow(s.beta2, t))) + s.epsilon);
    state.value[i] -= rate * (adam + p.weight_decay * state.value[i]);
  }
}

std::vector<ops::AdamWParameter> adamw_parameters() {
  std::vector<ops::AdamWParameter> parameters;
  for (const auto& [shape, dtype] : kArrays) {
    const double decay = parameters.size() % 2 == 0 ? 0.1 : 0;
    parameters.push_back({{},
                          random_tensor(shape, dtype, parameters.size()),
                          Tensor::zeros(shape, dtype),
                          Tensor::zeros(shape, dtype),
                          decay,
                          Tensor::zeros({}, DType::kInt64)});
  }
  return parameters;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(updates)

BOOST_AUTO_TEST_CASE(adamw_against_plain_loops) {
  const kernels::AdamW step{0.9, 0.99, 1e-8};
  std::vector<ops::AdamWParameter> parameters = adamw_parameters();
  std::vector<Moments> expected;
  for (auto& p : parameters) {
    p.steps.fill(static_cast<double>(expected.size()));  // they need not be of one age
    expected.push_back({doubles(p.value), doubles(p.m), doubles(p.v)});
  }
  for (int t = 1; t <= 5; ++t) {
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      ops::AdamWParameter& p = parameters[i];
      p.gradient = random_tensor(p.value.shape(), p.value.dtype(), 10 * i + static_cast<std::uint64_t>(t));
    }
    ops::adamw_update({0.01, 0.5}, step, parameters);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      naive_adamw(0.01, 0.5, step, t + static_cast<double>(i), parameters[i], expected[i]);
    }
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const double tolerance = tolerance_of(parameters[i].value.dtype());
    BOOST_TEST(max_difference(doubles(parameters[i].value), expected[i].value) <= tolerance, "array " << i);
    BOOST_TEST(max_difference(doubles(parameters[i].m), expected[i].m) <= tolerance, "array " << i);
    BOOST_TEST(max_difference(doubles(parameters[i].v), expected[i].v) <= tolerance, "array " << i);
    const double taken = parameters[i].value.numel() > 0 ? 5 : 0;
    BOOST_TEST(parameters[i].steps.item() == static_cast<double>(i) + taken);
  }
}

BOOST_AUTO_TEST_CASE(sgd_against_plain_loops) {
  std::vector<ops::SgdParameter> parameters;
  std::vector<std::vector<double>> expected, speed;
  for (const auto& [shape, dtype] : kArrays) {
    parameters.push_back({{}, random_tensor(shape, dtype, 1), Tensor::zeros(shape, dtype), 0.01});
    expected.push_back(doubles(parameters.back().value));
    speed.emplace_back(expected.back().size());
  }
  for (std::uint64_t t = 1; t <= 5; ++t) {
    for (ops::SgdParameter& p : parameters) p.gradient = random_tensor(p.value.shape(), p.value.dtype(), 10 + t);
    ops::sgd_update({0.1, 0.5}, {.momentum = 0.9}, parameters);
    for (std::size_t k = 0; k < parameters.size(); ++k) {
      const std::vector<double> g = doubles(parameters[k].gradient);
      for (std::size_t i = 0; i < g.size(); ++i) {
        speed[k][i] = 0.9 * speed[k][i] + (0.5 * g[i] + 0.01 * expected[k][i]);
        expected[k][i] -= 0.1 * speed[k][i];
      }
    }
  }
  for (std::size_t k = 0; k < parameters.size(); ++k) {
    const double tolerance = tolerance_of(parameters[k].value.dtype());
    BOOST_TEST(max_difference(doubles(parameters[k].value), expected[k]) <= tolerance, "array " << k);
    BOOST_TEST(max_difference(doubles(parameters[k].velocity), speed[k]) <= tolerance, "array " << k);
  }
}

BOOST_AUTO_TEST_CASE(nothing_is_changed_where_one_does_not_fit) {
  std::vector<ops::AdamWParameter> parameters = adamw_parameters();
  for (auto& p : parameters) p.gradient = random_tensor(p.value.shape(), p.value.dtype(), 3);
  const Tensor before = parameters[0].value.clone();
  parameters.back().v = Tensor::zeros({4});
  BOOST_CHECK_THROW(ops::adamw_update({0.01}, {0.9, 0.99, 1e-8}, parameters), ShapeError);
  BOOST_TEST(same_bits(parameters[0].value, before));
}

BOOST_AUTO_TEST_CASE(squared_norm_adds_in_float64) {
  const std::vector<Tensor> tensors{random_tensor({700, 301}, DType::kFloat32, 1), Tensor::full({}, 3),
                                    random_tensor({5}, DType::kFloat64, 2), Tensor::zeros({0})};
  long double expected = 0;
  for (const Tensor& t : tensors) {
    for (const double v : doubles(t)) expected += static_cast<long double>(v) * v;
  }
  BOOST_CHECK(std::abs(ops::squared_norm(tensors).item() / static_cast<double>(expected) - 1) <= 1e-12);
}

BOOST_AUTO_TEST_CASE(updates_do_not_depend_on_the_thread_count) {
  const int threads = thread_count();
  std::vector<std::vector<Tensor>> values;
  std::vector<double> norms;
  for (const int count : {1, 2, 4}) {
    set_thread_count(count);
    std::vector<ops::AdamWParameter> parameters = adamw_parameters();
    std::vector<ops::SgdParameter> others;
    for (auto& p : parameters) p.gradient = random_tensor(p.value.shape(), p.value.dtype(), 3);
    ops::adamw_update({0.01}, {0.9, 0.99, 1e-8}, parameters);
    for (auto& p : parameters) others.push_back({p.gradient, p.value, p.m});
    ops::sgd_update({0.1}, {0.9}, others);
    std::vector<Tensor>& found = values.emplace_back();
    for (const auto& p : parameters) found.push_back(p.value);
    norms.push_back(ops::squared_norm(found).item());
  }
  set_thread_count(threads);
  for (std::size_t i = 1; i < values.size(); ++i) {
    for (std::size_t k = 0; k < values[i].size(); ++k) BOOST_CHECK(same_bits(values[i][k], values[0][k]));
    BOOST_CHECK(norms[i] == norms[0]);
  }
}

BOOST_AUTO_TEST_SUITE_END()
