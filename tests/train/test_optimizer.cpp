#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

/// AdamW as the paper writes it, one element at a time.
struct NaiveAdamW {
  AdamWOptions options;
  std::vector<double> m, v;

  void step(std::vector<double>& x, const std::vector<double>& g, int t, double rate, double decay) {
    m.resize(x.size()), v.resize(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      m[i] = options.beta1 * m[i] + (1 - options.beta1) * g[i];
      v[i] = options.beta2 * v[i] + (1 - options.beta2) * g[i] * g[i];
      const double m_hat = m[i] / (1 - std::pow(options.beta1, t)), v_hat = v[i] / (1 - std::pow(options.beta2, t));
      x[i] -= rate * (m_hat / (std::sqrt(v_hat) + options.epsilon) + decay * x[i]);
    }
  }
};

std::vector<bool> decayed(const std::function<std::unique_ptr<Optimizer>(std::vector<Parameter>)>& make) {
  const std::vector<Parameter> parameters = some_parameters();
  const std::vector<Tensor> before = copies(parameters);
  const auto optimizer = make(parameters);
  for (Parameter p : parameters) p.mutable_gradient() = Tensor::zeros(p.value().shape(), DType::kFloat64);
  optimizer->step(0.5);
  std::vector<bool> result;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    result.push_back(!same_bits(parameters[i].value(), before[i]));
    const double factor = result.back() ? 1 - 0.5 * 0.1 : 1;
    const std::vector<double> found = doubles(parameters[i].value());
    std::vector<double> expected = doubles(before[i]);
    for (double& e : expected) e *= factor;
    BOOST_TEST(max_difference(found, expected) <= 1e-14);
  }
  return result;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(optimizer)

BOOST_AUTO_TEST_CASE(adamw_is_adamw) {
  for (const AdamWOptions& options :
       {AdamWOptions{}, AdamWOptions{0.8, 0.95, 1e-4, 0.3}, AdamWOptions{0, 0, 1e-3, 0}}) {
    for (const double gradient_scale : {1.0, 0.25}) {
      const std::vector<Parameter> parameters = some_parameters();
      std::vector<NaiveAdamW> naive(parameters.size(), NaiveAdamW{options, {}, {}});
      std::vector<std::vector<double>> expected;
      for (const Parameter& p : parameters) expected.push_back(doubles(p.value()));
      AdamW optimizer(parameters, options);
      for (int t = 1; t <= 7; ++t) {
        const double rate = 0.05 / t;
        give_gradients(parameters, t);
        optimizer.step(rate, gradient_scale);
        for (std::size_t i = 0; i < parameters.size(); ++i) {
          std::vector<double> g = doubles(gradient_of(parameters[i], t));
          for (double& e : g) e *= gradient_scale;
          const double decay = parameters[i].value().rank() >= 2 ? options.weight_decay : 0;
          naive[i].step(expected[i], g, t, rate, decay);
          BOOST_TEST(max_difference(doubles(parameters[i].value()), expected[i]) <= 1e-12, parameters[i].name()
                                                                                               << ", step " << t);
          BOOST_TEST(max_difference(doubles(optimizer.state().at("m." + parameters[i].name())), naive[i].m) <= 1e-12);
          BOOST_TEST(max_difference(doubles(optimizer.state().at("v." + parameters[i].name())), naive[i].v) <= 1e-12);
          // the gradient itself stays
          BOOST_TEST(same_bits(parameters[i].gradient(), gradient_of(parameters[i], t)));
        }
        for (const Parameter& p : parameters) BOOST_TEST(optimizer.state().at("steps." + p.name()).item() == t);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(sgd_is_sgd) {
  for (const SgdOptions& options : {SgdOptions{}, SgdOptions{0.9, 0}, SgdOptions{0.5, 0.2}, SgdOptions{0, 0.1}}) {
    for (const double gradient_scale : {1.0, 0.25}) {
      const std::vector<Parameter> parameters = some_parameters();
      std::vector<std::vector<double>> expected, velocity;
      for (const Parameter& p : parameters) {
        expected.push_back(doubles(p.value()));
        velocity.emplace_back(expected.back().size(), 0.0);
      }
      Sgd optimizer(parameters, options);
      for (int t = 1; t <= 6; ++t) {
        const double rate = 0.1 / t;
        give_gradients(parameters, t);
        optimizer.step(rate, gradient_scale);
        for (std::size_t i = 0; i < parameters.size(); ++i) {
          const std::vector<double> g = doubles(gradient_of(parameters[i], t));
          const double decay = parameters[i].value().rank() >= 2 ? options.weight_decay : 0;
          for (std::size_t k = 0; k < g.size(); ++k) {
            double& v = velocity[i][k];
            v = options.momentum * v + gradient_scale * g[k] + decay * expected[i][k];
            expected[i][k] -= rate * v;
          }
          BOOST_TEST(max_difference(doubles(parameters[i].value()), expected[i]) <= 1e-12, parameters[i].name()
                                                                                               << ", step " << t);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(adamw_in_f32_follows_f64) {
  const std::vector<Parameter> narrow = some_parameters(DType::kFloat32), wide = some_parameters();
  AdamW a(narrow, {.weight_decay = 0.1}), b(wide, {.weight_decay = 0.1});
  for (int t = 1; t <= 5; ++t) {
    give_gradients(narrow, t);
    give_gradients(wide, t);
    a.step(0.02);
    b.step(0.02);
  }
  for (std::size_t i = 0; i < wide.size(); ++i) {
    BOOST_TEST(max_difference(narrow[i].value(), wide[i].value()) <= 2e-6, wide[i].name());
  }
}

/// What weight decay alone does to values in one step with gradients of 0.
BOOST_AUTO_TEST_CASE(decay_is_for_matrices_alone) {
  const std::vector<bool> expected{true, false, false, true};
  BOOST_TEST(
      (decayed([](auto p) { return std::make_unique<AdamW>(p, AdamWOptions{.weight_decay = 0.1}); }) == expected));
  BOOST_TEST((decayed([](auto p) { return std::make_unique<Sgd>(p, SgdOptions{.weight_decay = 0.1}); }) == expected));
  const std::vector<bool> none(4, false);
  BOOST_TEST((decayed([](auto p) { return std::make_unique<AdamW>(p, AdamWOptions{.weight_decay = 0}); }) == none));
  BOOST_TEST((decayed([](auto p) { return std::make_unique<Sgd>(p, SgdOptions{}); }) == none));
}

BOOST_AUTO_TEST_CASE(decay_of_each_parameter_may_be_chosen) {
  const auto vectors_too = [](const Parameter& p) { return p.name() == "stack" ? 0.0 : 0.1; };
  const std::vector<bool> expected{true, true, true, false};
  const AdamWOptions adamw{.weight_decay = 7, .weight_decay_of = vectors_too};
  BOOST_TEST((decayed([&](auto p) { return std::make_unique<AdamW>(p, adamw); }) == expected));
  const SgdOptions sgd{.weight_decay = 7, .weight_decay_of = vectors_too};
  BOOST_TEST((decayed([&](auto p) { return std::make_unique<Sgd>(p, sgd); }) == expected));
  for (const double bad : {-0.1, kNaN, kInfinity}) {
    const auto chosen = [bad](const Parameter& p) { return p.name() == "vector" ? bad : 0; };
    BOOST_CHECK_EXCEPTION(AdamW(some_parameters(), {.weight_decay_of = chosen}), ValueError,
                          says({"AdamW", "weight_decay_of 'vector'"}));
    BOOST_CHECK_EXCEPTION(Sgd(some_parameters(), {.weight_decay_of = chosen}), ValueError,
                          says({"Sgd", "weight_decay_of 'vector'"}));
  }
}

BOOST_AUTO_TEST_CASE(chosen_decay_is_the_same_with_a_number_of_the_device) {
  const auto chosen = [](const Parameter& p) { return 0.01 * static_cast<double>(p.name().size()); };
  const std::vector<Parameter> here = some_parameters(), there = some_parameters();
  AdamW a(here, {.weight_decay_of = chosen}), b(there, {.weight_decay_of = chosen});
  for (int t = 1; t <= 3; ++t) {
    give_gradients(here, t), give_gradients(there, t);
    a.step(0.05);
    b.step(Tensor::full({}, 0.05, DType::kFloat64));
  }
  BOOST_TEST(same(there, copies(here)));
}

BOOST_AUTO_TEST_CASE(parameters_without_a_gradient_are_passed_over) {
  const auto check = [](const std::function<std::unique_ptr<Optimizer>(std::vector<Parameter>)>& make) {
    const std::vector<Parameter> parameters = some_parameters();
    const auto optimizer = make(parameters);
    give_gradients(parameters, 1);
    optimizer->step(0.1);
    Parameter(parameters[0]).clear_gradient();
    Parameter(parameters[2]).clear_gradient();
    const std::vector<Tensor> before = copies(parameters);
    const auto state = copies(optimizer->state());
    optimizer->step(0.1);
    for (std::size_t i = 0; i < 4; ++i) {
      BOOST_TEST(same_bits(parameters[i].value(), before[i]) == (i % 2 == 0), parameters[i].name());
    }
    for (const auto& [name, tensor] : optimizer->state()) {
      const bool passed_over = name.ends_with("matrix") || name.ends_with("scalar");
      BOOST_TEST(same_bits(tensor, state.at(name)) == passed_over, name);
    }
    optimizer->clear_gradients();
    for (const Parameter& p : parameters) BOOST_TEST(!p.gradient().defined());
    const std::vector<Tensor> last = copies(parameters);
    optimizer->step(0.1);
    BOOST_TEST(same(parameters, last));
  };
  check([](auto p) { return std::make_unique<AdamW>(p); });
  check([](auto p) { return std::make_unique<Sgd>(p, SgdOptions{0.9, 0.1}); });
}

BOOST_AUTO_TEST_CASE(optimiser_options_outside_their_range) {
  const auto adamw = [](AdamWOptions options) { AdamW(some_parameters(), options); };
  for (const double bad : {-0.1, 1.0, kNaN}) {
    BOOST_CHECK_EXCEPTION(adamw({.beta1 = bad}), ValueError, says({"AdamW", "beta1"}));
    BOOST_CHECK_EXCEPTION(adamw({.beta2 = bad}), ValueError, says({"AdamW", "beta2"}));
    BOOST_CHECK_EXCEPTION(Sgd(some_parameters(), {.momentum = bad}), ValueError, says({"Sgd", "momentum"}));
  }
  for (const double bad : {0.0, -1e-8, kNaN}) {
    BOOST_CHECK_EXCEPTION(adamw({.epsilon = bad}), ValueError, says({"AdamW", "epsilon"}));
  }
  for (const double bad : {-0.1, kNaN}) {
    BOOST_CHECK_EXCEPTION(adamw({.weight_decay = bad}), ValueError, says({"AdamW", "weight_decay"}));
    BOOST_CHECK_EXCEPTION(Sgd(some_parameters(), {.weight_decay = bad}), ValueError, says({"Sgd", "weight_decay"}));
  }
}

BOOST_AUTO_TEST_CASE(an_epsilon_that_float32_cannot_hold) {
  for (const double bad : {1e-50, 1e39}) {
    const auto adamw = [&](DType dtype) {
      AdamW(std::vector<Parameter>{{"w", Tensor::zeros({1}, dtype)}}, {.epsilon = bad});
    };
    BOOST_CHECK_EXCEPTION(adamw(DType::kFloat32), ValueError, says({"AdamW", "epsilon", "float32"}));
    BOOST_CHECK_NO_THROW(adamw(DType::kFloat64));
  }
}

BOOST_AUTO_TEST_CASE(optimiser_options_that_are_not_finite) {
  BOOST_CHECK_EXCEPTION(AdamW(some_parameters(), {.epsilon = kInfinity}), ValueError,
                        says({"AdamW", "epsilon", "inf"}));
  BOOST_CHECK_EXCEPTION(AdamW(some_parameters(), {.weight_decay = kInfinity}), ValueError,
                        says({"weight_decay", "inf"}));
  BOOST_CHECK_EXCEPTION(Sgd(some_parameters(), {.weight_decay = kInfinity}), ValueError,
                        says({"Sgd", "weight_decay", "inf"}));
}

BOOST_AUTO_TEST_CASE(numbers_of_a_step_that_would_spoil_the_weights) {
  const auto check = [](const std::string& name, Optimizer& optimizer, const std::vector<Parameter>& parameters) {
    give_gradients(parameters, 1);
    optimizer.step(0.1);
    const std::vector<Tensor> before = copies(parameters);
    const auto state = copies(optimizer.state());
    for (const double bad : {-1.0, kNaN, kInfinity, -kInfinity}) {
      BOOST_CHECK_EXCEPTION(optimizer.step(bad), ValueError, says({name, "learning rate", "finite"}));
    }
    for (const double bad : {kNaN, kInfinity, -kInfinity}) {
      BOOST_CHECK_EXCEPTION(optimizer.step(0.1, bad), ValueError, says({name, "gradient scale", "finite"}));
    }
    BOOST_TEST(same(parameters, before));
    BOOST_TEST(same(optimizer.state(), state));
    BOOST_CHECK_NO_THROW(optimizer.step(0));
    BOOST_TEST(same(parameters, before));
    BOOST_CHECK_NO_THROW(optimizer.step(0.1, 0));
  };
  const std::vector<Parameter> a = some_parameters(), b = some_parameters();
  AdamW adamw(a);
  Sgd sgd(b, {.momentum = 0.9});
  check("AdamW", adamw, a);
  check("Sgd", sgd, b);
}

BOOST_AUTO_TEST_CASE(a_gradient_that_does_not_fit_leaves_no_half_step) {
  const auto check = [](const std::function<std::unique_ptr<Optimizer>(std::vector<Parameter>)>& make) {
    const std::vector<Parameter> parameters = some_parameters();
    const auto optimizer = make(parameters);
    give_gradients(parameters, 1);
    optimizer->step(0.1);
    give_gradients(parameters, 2);
    Parameter(parameters[2]).mutable_gradient() = Tensor::zeros({7}, DType::kFloat64);
    const std::vector<Tensor> before = copies(parameters);
    const auto state = copies(optimizer->state());
    BOOST_CHECK_THROW(optimizer->step(0.1), ShapeError);
    BOOST_TEST(same(parameters, before));
    BOOST_TEST(same(optimizer->state(), state));
  };
  check([](auto p) { return std::make_unique<AdamW>(p); });
  check([](auto p) { return std::make_unique<Sgd>(p); });
}

BOOST_AUTO_TEST_CASE(adamw_counts_the_steps_of_each_parameter) {
  // One that first gets a gradient late is corrected as in its own first steps.
  const Tensor one = Tensor::full({1}, 1.0, DType::kFloat64);
  Parameter early("early", one.clone()), late("late", one.clone());
  AdamW optimizer({early, late}, {.weight_decay = 0});
  for (int t = 0; t < 300; ++t) {
    early.mutable_gradient() = one;
    optimizer.step(1e-3);
  }
  BOOST_TEST(late.value().item() == 1.0);
  double x = 1, m = 0, v = 0;
  for (int t = 1; t <= 10; ++t) {
    late.mutable_gradient() = one;
    optimizer.step(1e-3);
    m = 0.9 * m + 0.1;
    v = 0.999 * v + 0.001;
    x -= 1e-3 * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
  }
  BOOST_TEST(std::abs(late.value().item() - x) <= 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
