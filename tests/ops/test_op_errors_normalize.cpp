#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "compare.h"
#include "op_error_cases.h"
#include "tapecache/core/forward_context.h"
#include "tapecache/core/random.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/normalize.h"

using namespace tapecache;
using namespace tapecache::testing;

namespace {

Tensor ones(const Shape& shape, DType dtype = DType::kFloat32) { return Tensor::full(shape, 1, dtype); }

/// In both modes of batch_norm.
template <class E>
void add_batch_norm_cases(std::vector<ErrorCase>& cases, const std::string& name, const Shape& x, const Shape& weight,
                          const Shape& bias, double epsilon, const std::vector<std::string>& words) {
  cases.push_back(error<E>(
      "batch_norm_" + name, [=](Given& g) { ops::batch_norm(g.f32(x), g.f32(weight), g.f32(bias), epsilon); }, words));
  cases.push_back(error<E>(
      "batch_norm_frozen_" + name,
      [=](Given& g) { ops::batch_norm(g.f32(x), g.f32(weight), g.f32(bias), ones({3}), ones({3}), epsilon); }, words));
}

std::vector<ErrorCase> rms_norm_cases() {
  const auto refused = [](const std::string& name, const Shape& x, const Shape& weight, double epsilon, auto type,
                          const std::vector<std::string>& words) {
    return error<typename decltype(type)::type>(
        "rms_norm_" + name, [=](Given& g) { ops::rms_norm(g.f32(x), g.f32(weight), epsilon); }, words);
  };
  constexpr std::type_identity<ShapeError> kShape;
  constexpr std::type_identity<ValueError> kValue;
  return {
      refused("epsilon", {2, 3}, {3}, 0, kValue, {"rms_norm:", "epsilon", "0"}),
      refused("epsilon_nan", {2, 3}, {3}, kNaN, kValue, {"rms_norm:", "epsilon", "nan"}),
      refused("epsilon_infinite", {2, 3}, {3}, kInfinity, kValue,
              {"rms_norm:", "epsilon is inf", "at most", "float32"}),
      refused("epsilon_above_f32", {2, 3}, {3}, 1e39, kValue, {"rms_norm:", "1e+39", "at most", "float32"}),
      refused("epsilon_of_f64", {2, 3}, {3}, 1e-50, kValue, {"rms_norm:", "1e-50", "float32"}),
      refused("scalar", {}, {3}, 1e-6, kShape, {"rms_norm:", "[]"}),
      refused("empty_axis", {2, 0}, {0}, 1e-6, kShape, {"rms_norm:", "[2, 0]", "empty"}),
      refused("weight", {2, 3}, {2}, 1e-6, kShape, {"rms_norm:", "weight", "[2]", "[3]"}),
      error<DTypeError>("rms_norm_mixed_types",
                        [](Given& g) {
                          ops::rms_norm(g.f32({2, 3}), Tensor::zeros({3}, DType::kFloat64));
                        },
                        {"rms_norm:", "float64", "float32"}),
  };
}

std::vector<ErrorCase> batch_norm_cases() {
  std::vector<ErrorCase> cases;
  add_batch_norm_cases<ValueError>(cases, "epsilon", {2, 3}, {3}, {3}, 0, {"batch_norm:", "epsilon", "0"});
  add_batch_norm_cases<ValueError>(cases, "epsilon_nan", {2, 3}, {3}, {3}, kNaN, {"batch_norm:", "epsilon", "nan"});
  add_batch_norm_cases<ValueError>(cases, "epsilon_of_f64", {2, 3}, {3}, {3}, 1e-50,
                                   {"batch_norm:", "1e-50", "float32"});
  cases.push_back(error<ValueError>("l2_normalize_epsilon_of_f64",
                                    [](Given& g) {
                                      ops::l2_normalize(g.f32({2, 3}), 1e-50);
                                    },
                                    {"l2_normalize:", "1e-50", "float32"}));
  cases.push_back(error<ValueError>("layer_norm_epsilon_of_f64",
                                    [](Given& g) {
                                      ops::layer_norm(g.f32({2, 3}), g.f32({3}), g.f32({3}), 1e-50);
                                    },
                                    {"layer_norm:", "1e-50", "float32"}));
  add_batch_norm_cases<ShapeError>(cases, "vector", {3}, {3}, {3}, 1, {"batch_norm:", "[3]", "2 axes"});
  add_batch_norm_cases<ShapeError>(cases, "no_channels", {2, 0}, {0}, {0}, 1, {"batch_norm:", "axis 1", "[2, 0]"});
  add_batch_norm_cases<ShapeError>(cases, "weight", {2, 3}, {2}, {3}, 1, {"batch_norm:", "weight", "[2]", "[3]"});
  add_batch_norm_cases<ShapeError>(cases, "bias", {2, 3, 4}, {3}, {4}, 1, {"batch_norm:", "bias", "[4]", "[3]"});
  cases.push_back(error<ShapeError>("batch_norm_one_value",
                                    [](Given& g) {
                                      ops::batch_norm(g.f32({1, 3}), g.f32({3}), g.f32({3}));
                                    },
                                    {"batch_norm:", "[1, 3]", "at least 2"}));
  cases.push_back(error<ShapeError>("batch_norm_no_rows",
                                    [](Given& g) {
                                      ops::batch_norm(g.f32({0, 3}), g.f32({3}), g.f32({3}));
                                    },
                                    {"batch_norm:", "[0, 3]", "at least 2"}));
  cases.push_back(error<DTypeError>("batch_norm_mixed_types",
                                    [](Given& g) {
                                      ops::batch_norm(g.f32({2, 3}), g.f32({3}), g.f64({3}));
                                    },
                                    {"batch_norm:", "bias", "float64", "float32"}));
  const auto given = [&](const std::string& name, auto type, const Tensor& mean, const Tensor& variance,
                         const std::vector<std::string>& words) {
    using E = typename decltype(type)::type;
    cases.push_back(error<E>(
        "batch_norm_given_" + name,
        [=](Given& g) {
          ops::batch_norm(g.f32({2, 3}), g.f32({3}), g.f32({3}), mean, variance);
        },
        words));
  };
  given("mean", std::type_identity<ShapeError>(), ones({2}), ones({3}), {"batch_norm:", "mean", "[2]", "[3]"});
  given("variance", std::type_identity<ShapeError>(), ones({3}), ones({1, 3}), {"variance", "[1, 3]", "[3]"});
  given("type", std::type_identity<DTypeError>(), ones({3}), ones({3}, DType::kFloat64), {"variance", "float64"});
  given("no_mean", std::type_identity<ValueError>(), {}, ones({3}), {"batch_norm:", "mean", "undefined"});
  return cases;
}

std::vector<ErrorCase> draw_cases() {
  return {
      error<ValueError>("drop_path_one", [](Given& g) { ops::drop_path(g.f32({2}), 1); }, {"drop_path:", "1"}),
      error<ValueError>("drop_path_negative", [](Given& g) { ops::drop_path(g.f32({2}), -0.5); },
                        {"drop_path:", "-0.5"}),
      error<ValueError>("drop_path_nan", [](Given& g) { ops::drop_path(g.f32({2}), kNaN); }, {"drop_path:", "nan"}),
      error<ShapeError>("drop_path_scalar", [](Given& g) { ops::drop_path(g.f32({}), 0.5); }, {"drop_path:", "[]"}),
      error<ShapeError>("drop_path_rows_not_of_samples",
                        [](Given& g) {
                          const ScopedValue random(random_state());
                          random_state().samples = 2;
                          ops::drop_path(g.f32({3, 2}), 0.5);
                        },
                        {"drop_path:", "3", "2"}),
      error<ValueError>("sample_uniform_samples", [](Given&) { ops::sample_uniform(-1, 2); },
                        {"sample_uniform:", "-1"}),
      error<ValueError>("sample_uniform_per_sample", [](Given&) { ops::sample_uniform(2, -3); },
                        {"sample_uniform:", "-3"}),
      error<ShapeError>("sample_uniform_rows_not_of_samples",
                        [](Given&) {
                          const ScopedValue random(random_state());
                          random_state().samples = 2;
                          ops::sample_uniform(3, 2);
                        },
                        {"sample_uniform:", "3", "2"}),
  };
}

const ErrorTests tests_of_norms({rms_norm_cases(), batch_norm_cases(), draw_cases()}, __FILE__);

}  // namespace
