#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "gradcache_checks.h"
#include "tapecache/core/device.h"
#include "tapecache/core/value_checks.h"
#include "tapecache/train/loss_scaler.h"
#include "tapecache/train/optimizer.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

/// The parameters under names of their own, as an optimiser asks.
std::vector<Parameter> named_apart(std::vector<Parameter> parameters) {
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].set_name("p" + std::to_string(i));
  return parameters;
}

struct Training {
  const ClipSetup setup{8, DType::kFloat32};
  std::vector<Parameter> parameters = named_apart(setup.parameters());
  std::vector<gradcache::Tower> towers = setup.towers();
  gradcache::Loss loss = setup.loss();
  gradcache::StepOptions options{.cut = {3}};
  AdamW optimizer{parameters};
  LossScaler scaler;

  /// One of the gradients overflows in the first step.
  Training() { parameters[0].mutable_gradient() = Tensor::full(parameters[0].value().shape(), kInfinity); }
};

void check_that_it_learns(const std::vector<double>& losses, const LossScaler& scaler) {
  BOOST_TEST(scaler.skipped_steps().item() == 1);
  BOOST_TEST(scaler.scale().item() == 32768);
  BOOST_TEST(losses.back() < 0.5 * losses.front());
}

/// The policy with choices, of which the scaler's arithmetic has none.
struct NaivePolicy {
  LossScalerOptions options;
  double scale = options.initial_scale;
  std::int64_t finite_in_a_row = 0, steps = 0, skipped = 0;

  void update(bool finite) {
    ++steps;
    if (!finite) {
      ++skipped;
      finite_in_a_row = 0;
      scale = std::max(options.min_scale, scale * options.backoff_factor);
    } else if (++finite_in_a_row >= options.growth_interval) {
      finite_in_a_row = 0;
      scale = std::min(options.max_scale, scale * options.growth_factor);
    }
  }
  std::map<std::string, std::string> notes() const {
    return {{"loss_scaler.scale", std::to_string(static_cast<int>(scale))},
            {"loss_scaler.finite_in_a_row", std::to_string(finite_in_a_row)},
            {"loss_scaler.steps", std::to_string(steps)},
            {"loss_scaler.skipped", std::to_string(skipped)}};
  }
};

/// A number that a device, the CPU, holds.
Number held(double value) { return Tensor::full({}, value, DType::kFloat64); }

}  // namespace

BOOST_AUTO_TEST_SUITE(loss_scaler)

BOOST_AUTO_TEST_CASE(grows_and_backs_off) {
  LossScaler scaler({.initial_scale = 8,
                     .growth_factor = 4,
                     .backoff_factor = 0.25,
                     .growth_interval = 3,
                     .min_scale = 1,
                     .max_scale = 64});
  const auto after = [&](bool finite) {
    scaler.update(finite ? 0 : 2);
    return scaler.scale().item();
  };
  BOOST_TEST(after(true) == 8.0);
  BOOST_TEST(after(true) == 8.0);
  BOOST_TEST(after(true) == 32.0);
  BOOST_TEST(after(true) == 32.0);
  BOOST_TEST(after(false) == 8.0);  // and the count begins anew
  BOOST_TEST(after(true) == 8.0);
  BOOST_TEST(after(true) == 8.0);
  BOOST_TEST(after(true) == 32.0);
  for (int i = 0; i < 3; ++i) after(true);
  BOOST_TEST(scaler.scale().item() == 64.0);
  for (int i = 0; i < 9; ++i) after(false);
  BOOST_TEST(scaler.scale().item() == 1.0);
  BOOST_TEST(scaler.skipped_steps().item() == 10);
  BOOST_TEST(scaler.steps().item() == 20);
}

BOOST_AUTO_TEST_CASE(unscaled_gradients_are_those_without_scaling) {
  const ClipSetup setup(8, DType::kFloat32, 0.2);
  const auto gradients = [&](double scale) {
    for (Parameter p : setup.parameters()) p.clear_gradient();
    begin_random_step(1, 1);
    gradcache::StepOptions options{{3}};
    options.scale = scale;
    gradcache::cached_step(setup.towers(), setup.loss(), options);
    LossScaler scaler({.initial_scale = scale});
    BOOST_TEST(scaler.unscale(setup.parameters()).item() == 0);
    BOOST_CHECK_EXCEPTION(scaler.unscale(setup.parameters()), Error, says({"twice"}));
    std::vector<Tensor> all;
    for (const Parameter& p : setup.parameters()) all.push_back(p.gradient());
    return all;
  };
  const auto plain = gradients(1), scaled = gradients(65536);  // a power of two changes exponents alone
  for (std::size_t i = 0; i < plain.size(); ++i) BOOST_TEST(same_bits(scaled[i], plain[i]));
  const double norm = gradient_norm(setup.parameters()).item();
  BOOST_TEST(clip_gradient_norm(setup.parameters(), 1e-3).item() == norm);
}

BOOST_AUTO_TEST_CASE(a_step_that_overflows_is_skipped) {
  const ClipSetup setup(8, DType::kFloat32);
  LossScaler scaler({.initial_scale = std::ldexp(1.0, 120), .max_scale = std::ldexp(1.0, 125)});
  int taken = 0;
  for (int step = 0; step < 40; ++step) {
    gradcache::StepOptions options{{3}};
    options.scale = scaler.scale();
    // Steep enough for the cache to overflow at first.
    const gradcache::Loss loss = [&](std::span<const Variable> r) {
      return ops::scale(losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(setup.log_scale)}), 1e6);
    };
    const gradcache::StepResult result = gradcache::cached_step(setup.towers(), loss, options);
    const Number non_finite = scaler.unscale(setup.parameters(), result.non_finite);
    scaler.update(non_finite);
    BOOST_TEST((result.non_finite.item() == 0) == (result.status == gradcache::StepStatus::kDone));
    if (non_finite.item() == 0) {
      ++taken;
      for (const Parameter& p : setup.parameters()) BOOST_TEST(first_non_finite(p.gradient()) == -1);
    }
    for (Parameter p : setup.parameters()) p.clear_gradient();
  }
  BOOST_TEST(scaler.skipped_steps().item() > 0);
  BOOST_TEST(taken == 40 - scaler.skipped_steps().item());
  BOOST_TEST(taken > 0);
}

BOOST_AUTO_TEST_CASE(the_documented_loop_goes_on_after_an_overflow) {
  Training model;
  auto& [setup, parameters, towers, loss, options, optimizer, scaler] = model;
  const double rate = 1e-2;
  std::vector<double> losses;
  for (int step = 0; step < 60; ++step) {
    options.scale = scaler.scale();
    const auto result = gradcache::cached_step(towers, loss, options);
    const Number non_finite = scaler.unscale(parameters, result.non_finite);
    optimizer.step(rate, 1, non_finite);
    optimizer.clear_gradients();
    scaler.update(non_finite);
    losses.push_back(result.loss.item());
  }
  check_that_it_learns(losses, scaler);
}

BOOST_AUTO_TEST_CASE(the_documented_loop_of_deferred_steps_goes_on_after_an_overflow) {
  Training model;
  auto& [setup, parameters, towers, loss, options, optimizer, scaler] = model;
  const Number rate = held(1e-2);
  options.deferred = true;
  std::vector<double> losses;
  gradcache::StepResult result;
  for (int step = 0; step < 60; ++step) {
    options.scale = scaler.scale();
    result = gradcache::cached_step(towers, loss, options);  // deferred
    optimizer.step(rate, scaler.gradient_scale(), result.non_finite);
    optimizer.clear_gradients();
    scaler.update(result.non_finite);
    losses.push_back(result.loss.item());
  }
  check_that_it_learns(losses, scaler);
}

BOOST_AUTO_TEST_CASE(gradients_of_a_skipped_step_do_not_get_into_the_next) {
  Parameter w("w", Tensor::full({1}, 1));
  Sgd optimizer({w});
  LossScaler scaler({.initial_scale = 0x1p+20});
  int taken = 0;
  for (int i = 0; i < 40; ++i) {
    const Tensor now = Tensor::full({1}, i == 0 ? kInfinity : 0.5 * scaler.scale().item());
    w.mutable_gradient() = w.gradient().defined() ? ops::add(w.gradient(), now).value() : now;
    const Number non_finite = scaler.unscale(std::span(&w, 1));
    const bool finite = non_finite.item() == 0;
    BOOST_TEST(w.gradient().defined() == finite);
    if (finite) {
      optimizer.step(0.1);
      optimizer.clear_gradients();  // after a step alone
      ++taken;
    }
    scaler.update(non_finite);
  }
  BOOST_TEST(taken == 39);
  BOOST_TEST(scaler.scale().item() == 0x1p+19);
}

BOOST_AUTO_TEST_CASE(state_travels) {
  LossScaler scaler({.initial_scale = 3 * 0.1, .growth_interval = 3, .min_scale = 0.01});
  scaler.update(0);
  scaler.update(1);
  scaler.update(0);
  std::map<std::string, std::string> notes{{"epoch", "2"}};
  scaler.save(notes);
  LossScaler other({.growth_interval = 3, .min_scale = 0.01});
  other.load(notes);
  for (const int non_finite : {0, 0, 3, 0}) {
    BOOST_TEST(other.scale().item() == scaler.scale().item());
    scaler.update(non_finite);
    other.update(non_finite);
  }
  BOOST_TEST(other.skipped_steps().item() == scaler.skipped_steps().item());
  BOOST_TEST(other.steps().item() == 7);
  for (const char* bad : {"", "x", "-1", "nan", "1e400", "4 5", "1e300", "2.5", "9223372036854775808", " 4", "4 "}) {
    auto broken = notes;
    broken["loss_scaler.steps"] = bad;
    const double before = other.scale().item();
    BOOST_CHECK_EXCEPTION(other.load(broken), ValueError, says({"loss_scaler.steps"}));
    BOOST_TEST(other.scale().item() == before);
  }
  notes.erase("loss_scaler.scale");
  BOOST_CHECK_EXCEPTION(other.load(notes), ValueError, says({"no 'loss_scaler.scale'"}));
}

BOOST_AUTO_TEST_CASE(state_that_travelled_goes_on_as_before) {
  const LossScalerOptions options{.initial_scale = 16, .growth_interval = 3, .min_scale = 2, .max_scale = 64};
  LossScaler first(options);
  for (const double non_finite : {0, 3, 0, 0}) first.update(held(non_finite));
  std::map<std::string, std::string> notes;
  first.save(notes);
  NaivePolicy expected{options, 8, 2, 4, 1};
  BOOST_TEST((notes == expected.notes()));
  LossScaler other(options);
  other.load(notes);
  for (const double non_finite : {0, 0, 0, 0, 1, 0}) {
    BOOST_TEST(other.scale().item() == expected.scale);
    BOOST_TEST(other.gradient_scale().item() == 1 / expected.scale);
    other.update(held(non_finite));
    expected.update(non_finite == 0);
  }
  std::map<std::string, std::string> found;
  other.save(found);
  BOOST_TEST((found == expected.notes()));
  notes["loss_scaler.scale"] = "65";
  BOOST_CHECK_EXCEPTION(other.load(notes), ValueError, says({"scale is 65"}));
  BOOST_TEST(other.scale().item() == expected.scale);
}

BOOST_AUTO_TEST_CASE(options_outside_their_range) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [](const LossScalerOptions& options, const char* name) {
    BOOST_CHECK_EXCEPTION(LossScaler{options}, ValueError, says({name}));
  };
  refused({.initial_scale = 0.5}, "initial_scale");
  refused({.initial_scale = nan}, "initial_scale");
  refused({.growth_factor = 1}, "growth_factor");
  refused({.growth_factor = nan}, "growth_factor");
  refused({.backoff_factor = 1}, "backoff_factor");
  refused({.backoff_factor = 0}, "backoff_factor");
  refused({.growth_interval = 0}, "growth_interval");
  refused({.min_scale = 0}, "min_scale");
  refused({.max_scale = 0.5}, "max_scale");
}

BOOST_AUTO_TEST_CASE(arithmetic_without_a_choice_goes_as_the_policy_with_choices) {
  const LossScalerOptions options{.initial_scale = 16, .growth_interval = 3, .min_scale = 2, .max_scale = 64};
  NaivePolicy expected{options};
  LossScaler by_host(options), by_device(options);
  for (const double non_finite : {0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 0, 0, 0}) {
    expected.update(non_finite == 0);
    by_host.update(non_finite);
    by_device.update(held(non_finite));
    for (const LossScaler* scaler : {&by_host, &by_device}) {
      BOOST_TEST(scaler->scale().item() == expected.scale);
      BOOST_TEST(scaler->gradient_scale().item() == 1 / expected.scale);
      BOOST_TEST(scaler->skipped_steps().item() == static_cast<double>(expected.skipped));
      BOOST_TEST(scaler->steps().item() == static_cast<double>(expected.steps));
      std::map<std::string, std::string> notes;
      scaler->save(notes);
      BOOST_TEST((notes == expected.notes()));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_scale_has_the_bits_of_the_policy_for_any_factors) {
  for (const std::int64_t interval : {1, 2}) {
    const LossScalerOptions options{
        .initial_scale = 1000, .growth_factor = 1.1, .backoff_factor = 0.3, .growth_interval = interval};
    NaivePolicy expected{options};
    LossScaler scaler(options);
    for (int step = 0; step < 40; ++step) {
      const bool finite = step % 7 != 3;
      expected.update(finite);
      scaler.update(finite ? 0 : 3);
      BOOST_TEST(scaler.scale().item() == expected.scale);
    }
  }
}

BOOST_AUTO_TEST_CASE(tied_weights_are_unscaled_and_clipped_once) {
  Parameter p("p", Tensor::zeros({4, 4}));
  const std::vector<Parameter> twice{p, Parameter("q", Tensor::zeros({2})), p};
  p.mutable_gradient() = Tensor::full({4, 4}, 8);
  LossScaler scaler({.initial_scale = 4});
  BOOST_TEST(scaler.unscale(twice).item() == 0);
  check_equal(p.gradient(), std::vector<double>(16, 2));
  BOOST_TEST(gradient_norm(twice).item() == 8.0);
  BOOST_TEST(clip_gradient_norm(twice, 4).item() == 8.0);
  check_equal(p.gradient(), std::vector<double>(16, 1));
  BOOST_TEST(clip_gradient_norm(twice, 2).item() == 4.0);
  check_equal(p.gradient(), std::vector<double>(16, 0.5));
}

BOOST_AUTO_TEST_CASE(gradients_that_a_scale_below_1_overflows_are_not_finite) {
  Parameter p("p", Tensor::zeros({2}));
  p.mutable_gradient() = Tensor::full({2}, 3e38);
  LossScaler scaler({.initial_scale = 0.25, .min_scale = 0.125});
  BOOST_TEST(scaler.unscale(std::span(&p, 1), 3).item() == 5);  // with what the step has counted
  scaler.update(2);
  p.mutable_gradient() = Tensor::full({2}, 1);
  BOOST_TEST(scaler.unscale(std::span(&p, 1)).item() == 0);
  check_equal(p.gradient(), {8, 8});
}

BOOST_AUTO_TEST_CASE(an_unscale_that_threw_may_be_repeated) {
  Parameter p("p", Tensor::zeros({4}));
  p.mutable_gradient() = Tensor::full({4}, 8);
  LossScaler scaler({.initial_scale = 4});
  {
    const MemoryLimit nothing(1);
    BOOST_CHECK_THROW(scaler.unscale(std::span(&p, 1)), OutOfMemory);
  }
  check_equal(p.gradient(), {8, 8, 8, 8});
  BOOST_TEST(scaler.unscale(std::span(&p, 1)).item() == 0);
  check_equal(p.gradient(), {2, 2, 2, 2});
}

BOOST_AUTO_TEST_CASE(what_is_no_number_of_values_is_refused) {
  LossScaler scaler({.initial_scale = 4});
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -1.0}) {
    BOOST_CHECK_EXCEPTION(scaler.update(bad), ValueError, says({"non_finite", "at least 0"}));
  }
  BOOST_TEST(scaler.scale().item() == 4);
  BOOST_TEST(scaler.steps().item() == 0);
}

BOOST_AUTO_TEST_CASE(loading_ends_a_step_that_failed) {
  Parameter p("p", Tensor::zeros({1}));
  LossScaler scaler({.initial_scale = 4});
  std::map<std::string, std::string> notes;
  scaler.save(notes);
  p.mutable_gradient() = Tensor::full({1}, 8);
  scaler.unscale(std::span(&p, 1));
  scaler.load(notes);
  p.mutable_gradient() = Tensor::full({1}, 8);
  BOOST_TEST(scaler.unscale(std::span(&p, 1)).item() == 0);
  check_equal(p.gradient(), {2});
}

BOOST_AUTO_TEST_SUITE_END()
