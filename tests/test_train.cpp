#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <numbers>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include "checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/philox.h"
#include "tapecache/core/random.h"
#include "tapecache/core/safetensors.h"
#include "tapecache/gradcache/losses.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/models/clip.h"
#include "tapecache/train/checkpoint.h"
#include "tapecache/train/clip_gradients.h"
#include "tapecache/train/metrics.h"
#include "tapecache/train/optimizer.h"
#include "tapecache/train/schedule.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

/// Uniform in [-1, 1), a function of the seed alone.
Tensor random_values(const Shape& shape, std::uint64_t seed, DType dtype = DType::kFloat64) {
  Tensor t = Tensor::empty(shape, DType::kFloat64);
  double* p = t.mutable_data<double>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    p[i] = 2.0 * static_cast<double>(uniform(RandomKey{seed, 78}.draw(0, static_cast<std::uint32_t>(i))[0])) - 1.0;
  }
  return t.to(dtype);
}

/// A matrix, a vector, a scalar and a stack of matrices.
std::vector<Parameter> some_parameters(DType dtype = DType::kFloat64) {
  return {{"matrix", random_values({3, 4}, 1, dtype)},
          {"vector", random_values({5}, 2, dtype)},
          {"scalar", random_values({}, 3, dtype)},
          {"stack", random_values({2, 2, 3}, 4, dtype)}};
}

Tensor gradient_of(const Parameter& p, int step) {
  return random_values(p.value().shape(), 1000 + 10 * static_cast<std::uint64_t>(step) + p.name().size(),
                       p.value().dtype());
}

void give_gradients(std::span<const Parameter> parameters, int step) {
  for (Parameter p : parameters) p.mutable_gradient() = gradient_of(p, step);
}

std::vector<Tensor> copies(std::span<const Parameter> parameters) {
  std::vector<Tensor> values;
  for (const Parameter& p : parameters) values.push_back(p.value().clone());
  return values;
}

std::map<std::string, Tensor> copies(const std::map<std::string, Tensor>& tensors) {
  std::map<std::string, Tensor> result;
  for (const auto& [name, tensor] : tensors) result.emplace(name, tensor.clone());
  return result;
}

bool same(std::span<const Parameter> parameters, const std::vector<Tensor>& values) {
  bool all = parameters.size() == values.size();
  for (std::size_t i = 0; all && i < values.size(); ++i) all = same_bits(parameters[i].value(), values[i]);
  return all;
}

bool same(const std::map<std::string, Tensor>& a, const std::map<std::string, Tensor>& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&](const auto& entry) {
           return b.contains(entry.first) && same_bits(entry.second, b.at(entry.first));
         });
}

/// A folder of its own, removed with all it holds.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("tapecache_train_" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::filesystem::path operator/(const char* name) const { return path_ / name; }
  std::int64_t entries() const {
    return std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator());
  }

 private:
  std::filesystem::path path_;
};

std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(train)

// --- optimisers -----------------------------------------------------------------------------------------------------

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
          BOOST_TEST(max_difference(doubles(parameters[i].value()), expected[i]) <= 1e-12,
                     parameters[i].name() << ", step " << t);
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
          BOOST_TEST(max_difference(doubles(parameters[i].value()), expected[i]) <= 1e-12,
                     parameters[i].name() << ", step " << t);
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

BOOST_AUTO_TEST_CASE(decay_is_for_matrices_alone) {
  const std::vector<bool> expected{true, false, false, true};
  BOOST_TEST(
      (decayed([](auto p) { return std::make_unique<AdamW>(p, AdamWOptions{.weight_decay = 0.1}); }) == expected));
  BOOST_TEST((decayed([](auto p) { return std::make_unique<Sgd>(p, SgdOptions{.weight_decay = 0.1}); }) == expected));
  const std::vector<bool> none(4, false);
  BOOST_TEST((decayed([](auto p) { return std::make_unique<AdamW>(p, AdamWOptions{.weight_decay = 0}); }) == none));
  BOOST_TEST((decayed([](auto p) { return std::make_unique<Sgd>(p, SgdOptions{}); }) == none));
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
  for (const double bad : {-0.1, 1.0, kNan}) {
    BOOST_CHECK_EXCEPTION(adamw({.beta1 = bad}), ValueError, says({"AdamW", "beta1"}));
    BOOST_CHECK_EXCEPTION(adamw({.beta2 = bad}), ValueError, says({"AdamW", "beta2"}));
    BOOST_CHECK_EXCEPTION(Sgd(some_parameters(), {.momentum = bad}), ValueError, says({"Sgd", "momentum"}));
  }
  for (const double bad : {0.0, -1e-8, kNan}) {
    BOOST_CHECK_EXCEPTION(adamw({.epsilon = bad}), ValueError, says({"AdamW", "epsilon"}));
  }
  for (const double bad : {-0.1, kNan}) {
    BOOST_CHECK_EXCEPTION(adamw({.weight_decay = bad}), ValueError, says({"AdamW", "weight_decay"}));
    BOOST_CHECK_EXCEPTION(Sgd(some_parameters(), {.weight_decay = bad}), ValueError, says({"Sgd", "weight_decay"}));
  }
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

BOOST_AUTO_TEST_CASE(state_moves_between_optimisers) {
  const std::vector<Parameter> a = some_parameters(), b = some_parameters();
  AdamW from(a), to(b);
  for (int t = 1; t <= 3; ++t) give_gradients(a, t), from.step(0.1);
  for (std::size_t i = 0; i < a.size(); ++i) Parameter(b[i]).assign(a[i].value());
  to.load_state(from.state());
  BOOST_TEST(same(from.state(), to.state()));
  for (const auto& [name, tensor] : to.state()) BOOST_TEST(!tensor.shares_storage(from.state().at(name)));
  give_gradients(a, 4), from.step(0.1);
  BOOST_TEST(to.state().at("steps.vector").item() == 3);
  give_gradients(b, 4), to.step(0.1);
  BOOST_TEST(same(b, copies(a)));

  Sgd momentum(a, {.momentum = 0.9});
  give_gradients(a, 5), momentum.step(0.1);
  const std::map<std::string, Tensor> state = momentum.state();
  BOOST_TEST(state.size() == 4u);
  // "The tensors are the optimiser's own."
  for (const auto& [name, tensor] : momentum.state()) BOOST_TEST(tensor.shares_storage(state.at(name)));
}

BOOST_AUTO_TEST_CASE(state_that_does_not_fit_changes_nothing) {
  const std::vector<Parameter> parameters = some_parameters();
  AdamW optimizer(parameters);
  give_gradients(parameters, 1);
  optimizer.step(0.1);
  const auto before = copies(optimizer.state());
  auto good = copies(optimizer.state());
  for (auto& [name, tensor] : good) tensor.fill(3);
  const auto refused = [&]<class E>(E*, const std::function<void(std::map<std::string, Tensor>&)>& change,
                                    const std::vector<std::string>& words) {
    auto state = copies(good);
    change(state);
    BOOST_CHECK_EXCEPTION(optimizer.load_state(state), E, says(words));
    BOOST_TEST(same(optimizer.state(), before));
  };
  ValueError* const value_error = nullptr;
  ShapeError* const shape_error = nullptr;
  refused(value_error, [](auto& s) { s.erase("v.vector"); }, {"'v.vector'", "missing"});
  refused(value_error, [](auto& s) { s.erase("steps.vector"); }, {"'steps.vector'", "missing"});
  refused(value_error, [](auto& s) { s.clear(); }, {"missing"});
  refused(value_error, [](auto& s) { s.emplace("w.vector", Tensor::zeros({5})); }, {"'w.vector'", "unknown"});
  refused(shape_error, [](auto& s) { s["v.vector"] = Tensor::zeros({6}, DType::kFloat64); },
          {"'v.vector'", "[6]", "[5]"});
  refused(shape_error,
          [](auto& s) {
            s["v.matrix"] = s["v.matrix"].reshape({4, 3});
          },
          {"'v.matrix'", "[4, 3]", "[3, 4]"});
  refused(shape_error, [](auto& s) { s["v.vector"] = Tensor::zeros({5}); }, {"'v.vector'", "float32", "float64"});
  refused(shape_error, [](auto& s) { s["steps.vector"] = Tensor::zeros({}); }, {"'steps.vector'", "int64"});
  BOOST_CHECK_THROW(optimizer.load_state(Sgd(parameters).state()), ValueError);
  BOOST_TEST(same(optimizer.state(), before));
  optimizer.load_state(good);
  BOOST_TEST(same(optimizer.state(), good));
}

BOOST_AUTO_TEST_CASE(two_parameters_of_one_name_do_not_share_state) {
  // Else a checkpoint would silently keep the state of one of them.
  const std::vector<Parameter> twins{{"w", Tensor::zeros({2})}, {"w", Tensor::zeros({3})}};
  const auto keeps_both = [&](const auto& make) {
    try {
      return make();
    } catch (const ValueError&) {
      return true;
    }
  };
  BOOST_TEST(keeps_both([&] { return AdamW(twins).state().size() == 5; }));
  BOOST_TEST(keeps_both([&] { return Sgd(twins).state().size() == 2; }));
}

// --- schedule -------------------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(warmup_cosine_values) {
  const auto close = [](double found, double expected) { return std::abs(found - expected) <= 1e-15; };
  for (std::int64_t step = 0; step < 4; ++step) {
    BOOST_TEST(close(warmup_cosine(step, 4, 12, 0.8), 0.2 * static_cast<double>(step + 1)));
  }
  BOOST_TEST(close(warmup_cosine(4, 4, 12, 0.8), 0.8));
  BOOST_TEST(close(warmup_cosine(6, 4, 12, 0.8), 0.4 * (1 + std::numbers::sqrt2 / 2)));
  BOOST_TEST(close(warmup_cosine(8, 4, 12, 0.8), 0.4));
  BOOST_TEST(close(warmup_cosine(10, 4, 12, 0.8), 0.4 * (1 - std::numbers::sqrt2 / 2)));
  BOOST_TEST(warmup_cosine(12, 4, 12, 0.8) == 0);
  BOOST_TEST(warmup_cosine(1000, 4, 12, 0.8) == 0);
  BOOST_TEST(close(warmup_cosine(8, 4, 12, 0.8, 0.2), 0.5));
  BOOST_TEST(warmup_cosine(12, 4, 12, 0.8, 0.2) == 0.2);
  BOOST_TEST(warmup_cosine(99, 4, 12, 0.8, 0.2) == 0.2);
  BOOST_TEST(close(warmup_cosine(0, 0, 10, 0.3), 0.3));             // no warmup
  BOOST_TEST(close(warmup_cosine(9, 10, 10, 0.3, 0.1), 0.3));       // warmup alone
  BOOST_TEST(close(warmup_cosine(10, 10, 10, 0.3, 0.1), 0.1));
  BOOST_TEST(close(warmup_cosine(5, 0, 10, 0.3, 0.3), 0.3));        // floor = peak
  double previous = 1;
  for (std::int64_t step = 4; step <= 40; ++step) {
    const double rate = warmup_cosine(step, 4, 40, 1, 0.1);
    BOOST_TEST(rate <= previous);
    BOOST_TEST(rate >= 0.1);
    previous = rate;
  }
}

BOOST_AUTO_TEST_CASE(warmup_cosine_arguments) {
  BOOST_CHECK_THROW(warmup_cosine(-1, 0, 10, 1), ValueError);
  BOOST_CHECK_THROW(warmup_cosine(0, -1, 10, 1), ValueError);
  BOOST_CHECK_THROW(warmup_cosine(0, 11, 10, 1), ValueError);
  BOOST_CHECK_THROW(warmup_cosine(0, 0, 0, 1), ValueError);
  BOOST_CHECK_THROW(warmup_cosine(0, 0, 10, 1, -0.1), ValueError);
  BOOST_CHECK_THROW(warmup_cosine(0, 0, 10, 1, 1.1), ValueError);
  BOOST_CHECK_THROW(warmup_cosine(0, 0, 10, kNan), ValueError);
  BOOST_CHECK_THROW(warmup_cosine(0, 0, 10, 1, kNan), ValueError);
  BOOST_CHECK_EXCEPTION(warmup_cosine(3, 11, 10, 0.5), ValueError, says({"warmup 11", "total 10", "step 3"}));
}

// --- clipping -------------------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(gradients_are_clipped_by_their_common_norm) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const double tolerance = dtype == DType::kFloat32 ? 1e-6 : 1e-14;
    Parameter a("a", Tensor::zeros({2, 2}, dtype)), b("b", Tensor::zeros({}, dtype)), none("none", Tensor::zeros({3}));
    a.mutable_gradient() = Tensor::from(std::vector<double>{1, -2, 4, 0}, {2, 2}).to(dtype);
    b.mutable_gradient() = Tensor::full({}, 10, dtype);
    const std::vector<Parameter> parameters{a, none, b};
    BOOST_TEST(std::abs(gradient_norm(parameters) - 11) <= 1e-12);
    BOOST_TEST(std::abs(clip_gradient_norm(parameters, 11.5) - 11) <= 1e-12);
    check_equal(a.gradient(), {1, -2, 4, 0});
    BOOST_TEST(std::abs(clip_gradient_norm(parameters, 2.2) - 11) <= 1e-12);
    BOOST_TEST(max_difference(doubles(a.gradient()), std::vector{0.2, -0.4, 0.8, 0.0}) <= tolerance);
    BOOST_TEST(std::abs(b.gradient().item() - 2) <= 2 * tolerance);
    BOOST_TEST(!none.gradient().defined());
    BOOST_TEST(std::abs(gradient_norm(parameters) - 2.2) <= 4 * tolerance);
  }
}

BOOST_AUTO_TEST_CASE(gradients_that_are_not_finite_stay) {
  for (const double bad : {kNan, kInf, -kInf}) {
    Parameter a("a", Tensor::zeros({2})), b("b", Tensor::zeros({2}));
    a.mutable_gradient() = Tensor::from(std::vector<float>{3, 400}, {2});
    b.mutable_gradient() = Tensor::from(std::vector<double>{bad, 5}, {2}).to(DType::kFloat32);
    const Tensor a_before = a.gradient().clone(), b_before = b.gradient().clone();
    const double norm = clip_gradient_norm(std::vector{a, b}, 1);
    BOOST_TEST(!std::isfinite(norm));
    BOOST_TEST(std::isnan(norm) == std::isnan(bad));
    BOOST_TEST(same_bits(a.gradient(), a_before));
    BOOST_TEST(same_bits(b.gradient(), b_before));
  }
  // Squares that overflow f32 are no reason not to clip.
  Parameter large("large", Tensor::zeros({2}));
  large.mutable_gradient() = Tensor::full({2}, 3e30);
  BOOST_TEST(std::abs(clip_gradient_norm(std::vector{large}, 1) / (3e30 * std::numbers::sqrt2) - 1) <= 1e-6);
  BOOST_TEST(std::abs(gradient_norm(std::vector{large}) - 1) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(gradient_clipping_arguments) {
  const std::vector<Parameter> parameters = some_parameters();
  BOOST_TEST(gradient_norm({}) == 0);
  BOOST_TEST(clip_gradient_norm(parameters, 1) == 0);  // none has a gradient
  give_gradients(parameters, 1);
  for (const double bad : {0.0, -1.0, kNan}) {
    BOOST_CHECK_EXCEPTION(clip_gradient_norm(parameters, bad), ValueError, says({"max_norm"}));
  }
  for (const Parameter& p : parameters) BOOST_TEST(same_bits(p.gradient(), gradient_of(p, 1)));
  const double norm = gradient_norm(parameters);
  BOOST_TEST(norm > 0);
  BOOST_TEST(clip_gradient_norm(parameters, kInf) == norm);
  for (const Parameter& p : parameters) BOOST_TEST(same_bits(p.gradient(), gradient_of(p, 1)));
}

// --- checkpoints ----------------------------------------------------------------------------------------------------

models::ClipConfig tiny_clip() {
  const models::TransformerConfig encoder{.width = 8, .layers = 1, .heads = 2, .mlp_width = 16, .dropout = 0.2};
  return {.vision = {.image_size = 8, .patch_size = 4, .encoder = encoder},
          .text = {.vocabulary = 12, .max_tokens = 4, .encoder = encoder},
          .projection_width = 6};
}

/// A training run over fixed data, in f32 with dropout: everything a program would make anew.
struct Run {
  explicit Run(std::uint64_t seed = 1, const models::ClipConfig& config = tiny_clip())
      : clip(config, seed), optimizer(clip.parameters(), {.weight_decay = 0.1}) {}

  double step() {
    begin_random_step(position.seed, static_cast<std::uint32_t>(position.step));
    const Tensor images = random_values({6, 3, 8, 8}, 50 + static_cast<std::uint64_t>(position.step), DType::kFloat32);
    std::vector<std::vector<std::int32_t>> words;
    for (std::int32_t i = 0; i < 6; ++i) words.push_back({i, i + 1, static_cast<std::int32_t>(position.step) + i});
    const std::vector<gradcache::Tower> towers{
        {"image", images, [this](const Tensor& x) { return clip.encode_image(x); }},
        {"text", models::TokenBatch::pad(words), [this](const models::TokenBatch& x) { return clip.encode_text(x); }}};
    const gradcache::Loss loss = [this](std::span<const Variable> r) {
      return gradcache::clip_loss(r[0], r[1], clip.logit_scale());
    };
    const double found = gradcache::cached_step(towers, loss, {{4}}).loss;
    clip_gradient_norm(clip.parameters(), 1.0);
    optimizer.step(warmup_cosine(position.step, 2, 6, 0.01));
    optimizer.clear_gradients();
    ++position.step;
    return found;
  }

  void save(const std::filesystem::path& path) const {
    save_checkpoint(path, clip.parameters(), optimizer, position);
  }
  void load(const std::filesystem::path& path) { position = load_checkpoint(path, clip.parameters(), optimizer); }

  models::Clip clip;
  AdamW optimizer;
  TrainingPosition position{
      .step = 0, .seed = 0xfedcba9876543210, .notes = {{"epoch", "2"}, {"läuft", "ja, \"gut\"\n"}, {"", ""}}};
};

BOOST_AUTO_TEST_CASE(a_resumed_run_goes_on_to_the_same_bits) {
  const Folder folder;
  Run whole;
  std::vector<double> losses;
  for (int i = 0; i < 6; ++i) losses.push_back(whole.step());
  {
    Run first;
    for (int i = 0; i < 3; ++i) BOOST_TEST(first.step() == losses[static_cast<std::size_t>(i)]);
    first.save(folder / "run.safetensors");
  }
  begin_random_step(99, 99);
  Run second(2);  // other weights, that must not show
  second.position = {};
  second.load(folder / "run.safetensors");
  BOOST_TEST(second.position.step == 3);
  BOOST_TEST(second.position.seed == 0xfedcba9876543210);
  BOOST_TEST((second.position.notes == Run().position.notes));
  for (std::size_t i = 3; i < 6; ++i) BOOST_TEST(second.step() == losses[i]);
  BOOST_TEST(same(second.clip.parameters(), copies(whole.clip.parameters())));
  BOOST_TEST(same(second.optimizer.state(), whole.optimizer.state()));
  BOOST_TEST((second.position == whole.position));
  // The steps did something, and differ from those without the optimiser's state or the random position.
  BOOST_TEST(!same(whole.clip.parameters(), copies(Run().clip.parameters())));
  Run third;
  third.load(folder / "run.safetensors");
  third.position.seed = 5;
  third.step();
  BOOST_TEST(third.optimizer.state().at("steps.logit_scale").item() == 4);
  Run fourth;
  for (int i = 0; i < 4; ++i) fourth.step();
  BOOST_TEST(!same(third.clip.parameters(), copies(fourth.clip.parameters())));
}

BOOST_AUTO_TEST_CASE(saving_twice_gives_the_same_file) {
  const Folder folder;
  Run run;
  run.step();
  run.save(folder / "a.safetensors");
  Run other(3);
  other.load(folder / "a.safetensors");
  other.save(folder / "b.safetensors");
  BOOST_TEST((contents(folder / "a.safetensors") == contents(folder / "b.safetensors")));
  BOOST_TEST(folder.entries() == 2);  // and no temporary file is left
}

BOOST_AUTO_TEST_CASE(momentum_travels_too) {
  const Folder folder;
  const std::vector<Parameter> a = some_parameters(), b = some_parameters();
  Sgd from(a, {.momentum = 0.9}), to(b, {.momentum = 0.9});
  give_gradients(a, 1), from.step(0.1);
  save_checkpoint(folder / "c", a, from, {.step = 1, .seed = 2, .notes = {}});
  const TrainingPosition position = load_checkpoint(folder / "c", b, to);
  BOOST_TEST((position == TrainingPosition{.step = 1, .seed = 2, .notes = {}}));
  give_gradients(a, 2), from.step(0.1);
  give_gradients(b, 2), to.step(0.1);
  BOOST_TEST(same(b, copies(a)));
}

/// A run that a bad checkpoint must leave as it is.
struct Victim {
  Run run{7};
  std::vector<Tensor> parameters;
  std::map<std::string, Tensor> state;

  Victim() {
    run.step();
    parameters = copies(run.clip.parameters());
    state = copies(run.optimizer.state());
  }
  void refuses(const std::filesystem::path& path, std::vector<std::string> words = {}) {
    words.push_back(path.string());
    BOOST_CHECK_EXCEPTION(run.load(path), FileError, says(words));
    BOOST_TEST(same(run.clip.parameters(), parameters));
    BOOST_TEST(same(run.optimizer.state(), state));
    BOOST_TEST(run.position.step == 1);
  }
};

BOOST_AUTO_TEST_CASE(truncated_checkpoints_are_refused) {
  const Folder folder;
  Run good;
  for (int i = 0; i < 2; ++i) good.step();
  good.save(folder / "good");
  const std::string bytes = contents(folder / "good");
  Victim victim;
  victim.refuses(folder / "absent", {"open"});
  std::vector<std::size_t> lengths{0, 1, 7, 8, 9, 100, bytes.size() - 1, bytes.size() - 4096};
  for (std::size_t i = 1; i < 16; ++i) lengths.push_back(bytes.size() * i / 16);
  for (const std::size_t length : lengths) {
    BOOST_TEST_CONTEXT("first " << length << " of " << bytes.size() << " bytes") {
      put(folder / "cut", std::string_view(bytes).substr(0, length));
      victim.refuses(folder / "cut");
    }
  }
  put(folder / "cut", bytes + "x");
  victim.refuses(folder / "cut");
  put(folder / "cut", bytes);
  BOOST_CHECK_NO_THROW(victim.run.load(folder / "cut"));
  BOOST_TEST(same(victim.run.clip.parameters(), copies(good.clip.parameters())));
}

BOOST_AUTO_TEST_CASE(checkpoints_of_something_else_are_refused) {
  const Folder folder;
  Run good;
  for (int i = 0; i < 2; ++i) good.step();
  good.save(folder / "good");
  const SafetensorsFile file = read_safetensors(folder / "good");
  const auto path = folder / "bad";
  Victim victim;
  const auto refuses = [&](const std::function<void(SafetensorsFile&)>& change, const std::vector<std::string>& words) {
    SafetensorsFile changed = file;
    change(changed);
    write_safetensors(path, changed);
    victim.refuses(path, words);
  };

  refuses([](auto& f) { f.metadata.clear(); }, {"tapecache.step"});
  refuses([](auto& f) { f.metadata.erase("tapecache.step"); }, {"tapecache.step"});
  refuses([](auto& f) { f.metadata.erase("tapecache.seed"); }, {"tapecache.seed"});
  for (const char* text : {"", "x", "3x", " 3", "3.5", "99999999999999999999", "0x10"}) {
    refuses([&](auto& f) { f.metadata["tapecache.step"] = text; }, {"tapecache.step"});
  }
  refuses([](auto& f) { f.metadata["tapecache.seed"] = "-1"; }, {"tapecache.seed"});

  refuses([](auto& f) { f.tensors.erase("model.logit_scale"); }, {"'logit_scale'", "missing"});
  refuses([](auto& f) { f.tensors["model.logit_scale"] = Tensor::zeros({1}); }, {"'logit_scale'", "[1]"});
  refuses([](auto& f) { f.tensors["model.logit_scale"] = Tensor::zeros({}, DType::kFloat64); },
          {"'logit_scale'", "float64"});
  refuses([](auto& f) { f.tensors["model.surplus"] = Tensor::zeros({1}); }, {"'model.surplus'"});
  refuses([](auto& f) { f.tensors["surplus"] = Tensor::zeros({1}); }, {"'surplus'"});
  refuses([](auto& f) { f.tensors["optimizer.surplus"] = Tensor::zeros({1}); }, {"'surplus'"});
  refuses([](auto& f) { f.tensors.erase("optimizer.v.logit_scale"); }, {"'v.logit_scale'", "missing"});
  refuses([](auto& f) { f.tensors["optimizer.v.logit_scale"] = Tensor::zeros({2}); }, {"'v.logit_scale'", "[2]"});
  refuses([](auto& f) { f.tensors["optimizer.steps.logit_scale"] = Tensor::zeros({}); }, {"'steps.logit_scale'"});

  models::ClipConfig deeper = tiny_clip(), wider = tiny_clip();
  deeper.text.encoder.layers = 2;
  wider.text.encoder.mlp_width = 24;
  Run(1, deeper).save(path);
  victim.refuses(path, {"text_model.encoder.layers.1"});
  Run(1, wider).save(path);
  victim.refuses(path, {"text_model.encoder.layers.0.mlp.fc1", "[24", "[16"});

  const Sgd sgd(good.clip.parameters());
  save_checkpoint(path, good.clip.parameters(), sgd, good.position);
  victim.refuses(path, {"velocity."});
  put(path, "not a checkpoint at all, but long enough to hold a header");
  victim.refuses(path);
}

BOOST_AUTO_TEST_CASE(an_adamw_checkpoint_does_not_fit_sgd) {
  const Folder folder;
  Run good;
  good.step();
  good.save(folder / "good");
  const Run other(5);
  Sgd sgd(other.clip.parameters());
  const std::vector<Tensor> before = copies(other.clip.parameters());
  BOOST_CHECK_EXCEPTION(load_checkpoint(folder / "good", other.clip.parameters(), sgd), FileError,
                        says({"unknown state"}));
  BOOST_TEST(same(other.clip.parameters(), before));
}

/// Lets no file grow beyond some bytes, for a scope: a disk that runs full.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &limit_);
    const rlimit small{bytes, limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &limit_);
    std::signal(SIGXFSZ, handler_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  void (*handler_)(int);
  rlimit limit_{};
};

BOOST_AUTO_TEST_CASE(a_failed_save_leaves_the_old_checkpoint_whole) {
  const Folder folder;
  const auto path = folder / "run.safetensors";
  Run run;
  run.step();
  run.save(path);
  const std::string before = contents(path);
  run.step();
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{100}, before.size() / 2, before.size() - 1}) {
    std::string message;
    {
      const FullDisk full(bytes);
      try {
        run.save(path);
      } catch (const FileError& e) {
        message = e.what();
      }
    }
    BOOST_TEST(message.find(path.string()) != std::string::npos, "the message was '" << message << "'");
    BOOST_TEST((contents(path) == before));
    BOOST_TEST(folder.entries() == 1);
  }
  // A note that is no text, and a parameter named twice.
  TrainingPosition bad = run.position;
  bad.notes["broken"] = "\xff\xfe";
  BOOST_CHECK_THROW(save_checkpoint(path, run.clip.parameters(), run.optimizer, bad), FileError);
  std::vector<Parameter> twice = run.clip.parameters();
  twice.push_back(twice.front());
  BOOST_CHECK_THROW(save_checkpoint(path, twice, run.optimizer, run.position), ValueError);
  BOOST_TEST((contents(path) == before));
  BOOST_TEST(folder.entries() == 1);
  // A folder in the way; and a folder that is a file.
  std::filesystem::create_directories(folder / "taken" / "inside");
  BOOST_CHECK_THROW(run.save(folder / "taken"), FileError);
  BOOST_CHECK_THROW(run.save(path / "below"), FileError);
  BOOST_TEST(folder.entries() == 2);
  Run resumed;
  resumed.load(path);
  BOOST_TEST(resumed.position.step == 1);
}

BOOST_AUTO_TEST_CASE(a_save_creates_missing_folders) {
  const Folder folder;
  Run run;
  run.save(folder / "some" / "where" / "run.safetensors");
  Run other(2);
  other.load(folder / "some" / "where" / "run.safetensors");
  BOOST_TEST(same(other.clip.parameters(), copies(run.clip.parameters())));
}

// --- metrics --------------------------------------------------------------------------------------------------------

Tensor matrix(const std::vector<double>& values, std::int64_t rows, DType dtype = DType::kFloat64) {
  return Tensor::from(values, {rows, static_cast<std::int64_t>(values.size()) / rows}).to(dtype);
}

/// Queries whose scores against the unit vectors are the rows given.
std::map<int, double> recall_of_scores(const std::vector<double>& scores, std::int64_t n, const std::vector<int>& ks) {
  Tensor identity = Tensor::zeros({n, n}, DType::kFloat64);
  for (std::int64_t i = 0; i < n; ++i) identity.mutable_data<double>()[i * n + i] = 1;
  return recall_at_k(matrix(scores, n), identity, ks);
}

void check_recall(const std::map<int, double>& found, const std::map<int, double>& expected) {
  BOOST_TEST(found.size() == expected.size());
  for (const auto& [k, share] : expected) {
    BOOST_REQUIRE(found.contains(k));
    BOOST_TEST(std::abs(found.at(k) - share) <= 1e-15, "recall@" << k << " is " << found.at(k) << ", not " << share);
  }
}

BOOST_AUTO_TEST_CASE(recall_counts_the_targets_above) {
  const std::vector<double> scores{9, 1, 2, 3,   // first
                                   5, 4, 3, 2,   // second
                                   3, 2, 1, 0,   // third
                                   4, 3, 2, 1};  // fourth
  check_recall(recall_of_scores(scores, 4, {1, 2, 3, 4, 100}), {{1, 0.25}, {2, 0.5}, {3, 0.75}, {4, 1}, {100, 1}});
  check_recall(recall_of_scores(scores, 4, {4, 2, 2}), {{2, 0.5}, {4, 1}});
  check_recall(recall_of_scores(scores, 4, {}), {});
  check_recall(recall_of_scores({3}, 1, {1}), {{1, 1}});
  // Negative scores, and a query of zeros.
  check_recall(recall_of_scores({-1, -2, 0, 0}, 2, {1, 2}), {{1, 0.5}, {2, 1}});
}

BOOST_AUTO_TEST_CASE(recall_counts_ties_against_the_query) {
  // Representations that have collapsed to one point retrieve nothing.
  check_recall(recall_of_scores(std::vector<double>(16, 2.0), 4, {1, 2, 3, 4}), {{1, 0}, {2, 0}, {3, 0}, {4, 1}});
  check_recall(recall_of_scores({5, 5, 1, 0, 5, 1, 1, 1, 1}, 3, {1, 2, 3}), {{1, 1.0 / 3}, {2, 2.0 / 3}, {3, 1}});
}

BOOST_AUTO_TEST_CASE(recall_takes_no_nan_for_a_hit) {
  // A query of NaN never hits, not even where k is everything.
  const Tensor targets = matrix({1, 0, 0, 1, 1, 1}, 3);
  check_recall(recall_at_k(matrix({1, 0, kNan, 0, 2, 2}, 3), targets, std::vector{1, 3}), {{1, 1.0 / 3}, {3, 2.0 / 3}});
  // A target of NaN stands before all others.
  check_recall(recall_at_k(matrix({1, 0, 0, 1, 2, 2}, 3), matrix({1, 0, 0, 1, kNan, 1}, 3), std::vector{1, 2, 3}),
               {{1, 0}, {2, 2.0 / 3}, {3, 2.0 / 3}});
  check_recall(recall_at_k(Tensor::full({3, 2}, kNan), Tensor::full({3, 2}, kNan), std::vector{1, 3}),
               {{1, 0}, {3, 0}});
}

BOOST_AUTO_TEST_CASE(recall_takes_f32_and_stays_off_the_tape) {
  Tape tape;
  const Recording recording(tape);
  const Tensor x = random_values({20, 6}, 1, DType::kFloat32);
  Tensor far = x.clone();  // each its own nearest: lengths are equal
  for (std::int64_t i = 0; i < 20; ++i) {
    double squares = 0;
    for (std::int64_t j = 0; j < 6; ++j) squares += std::pow(static_cast<double>(x.data<float>()[i * 6 + j]), 2);
    for (std::int64_t j = 0; j < 6; ++j) far.mutable_data<float>()[i * 6 + j] /= static_cast<float>(std::sqrt(squares));
  }
  check_recall(recall_at_k(far, far, std::vector{1}), {{1, 1}});
  BOOST_TEST(tape.nodes().empty());
}

BOOST_AUTO_TEST_CASE(recall_arguments) {
  const std::vector<int> one{1};
  const Tensor x = random_values({4, 3}, 1);
  BOOST_CHECK_EXCEPTION(recall_at_k(x, x.slice(0, 3), one), ShapeError, says({"[4, 3]", "[3, 3]"}));
  BOOST_CHECK_THROW(recall_at_k(x, random_values({4, 2}, 1), one), ShapeError);
  BOOST_CHECK_THROW(recall_at_k(x.reshape({12}), x.reshape({12}), one), ShapeError);
  BOOST_CHECK_THROW(recall_at_k(x.slice(0, 0), x.slice(0, 0), one), ShapeError);
  BOOST_CHECK_THROW(recall_at_k(Tensor(), x, one), ShapeError);
  BOOST_CHECK_THROW(recall_at_k(x, Tensor(), one), ShapeError);
  BOOST_CHECK_EXCEPTION(recall_at_k(x, x, std::vector{1, 0}), ValueError, says({"k is 0"}));
  BOOST_CHECK_THROW(recall_at_k(x, x, std::vector{-5}), ValueError);
}

struct Labelled {
  Tensor features, classes;
};

/// `count` samples of three classes: class c lies around point c, `spread` wide; far from 0 and of unequal scales.
Labelled blobs(std::int64_t count, double spread, std::uint64_t seed, DType dtype = DType::kFloat64) {
  constexpr std::array<std::array<double, 2>, 3> kCentres{{{0, 0}, {3, 0}, {0, 3}}};
  const std::vector<double> noise = doubles(random_values({count, 2}, seed));
  std::vector<double> features;
  std::vector<std::int64_t> classes;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto c = static_cast<std::size_t>(i % 3), at = static_cast<std::size_t>(2 * i);
    features.push_back(500 + 100 * (kCentres[c][0] + spread * noise[at]));
    features.push_back(-0.3 + 0.01 * (kCentres[c][1] + spread * noise[at + 1]));
    classes.push_back(i % 3);
  }
  return {matrix(features, count, dtype), Tensor::from(classes, {count})};
}

/// Features without a bearing on their classes, of which 70 % are class 1.
Labelled noise(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> classes;
  for (std::int64_t i = 0; i < count; ++i) classes.push_back(i % 10 < 7 ? 1 : i % 10 < 9 ? 0 : 2);
  return {random_values({count, 4}, seed), Tensor::from(classes, {count})};
}

BOOST_AUTO_TEST_CASE(a_linear_probe_separates_what_can_be_separated) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Labelled fitted = blobs(60, 0.9, 1, dtype), held_out = blobs(90, 0.9, 2, dtype);
    BOOST_TEST(linear_probe(fitted.features, fitted.classes, held_out.features, held_out.classes) == 1);
  }
  // It is the fitted samples that say where 0 is: held out here is one sample alone.
  const Labelled three = blobs(60, 0.9, 1), lone = blobs(2, 0.9, 2);
  BOOST_TEST(linear_probe(three.features, three.classes, lone.features.slice(0, 1), lone.classes.slice(0, 1)) == 1);
  BOOST_TEST(linear_probe(three.features, three.classes, lone.features.slice(1, 2), lone.classes.slice(1, 2)) == 1);
  // Blobs that overlap: better than chance, worse than right; and the same number each time, whatever is active.
  const Labelled fitted = blobs(300, 3, 3), held_out = blobs(300, 3, 4);
  const auto probe = [&] {
    return linear_probe(fitted.features, fitted.classes, held_out.features, held_out.classes);
  };
  const double accuracy = probe();
  BOOST_TEST(accuracy > 0.5);
  BOOST_TEST(accuracy < 0.98);
  begin_random_step(3, 3);
  Tape tape;
  const Recording recording(tape);
  BOOST_TEST(probe() == accuracy);
  BOOST_TEST(tape.nodes().empty());
  BOOST_TEST((random_state() == RandomState{{3, 3, 0}, 0, 0}));
}

BOOST_AUTO_TEST_CASE(a_linear_probe_learns_nothing_from_noise) {
  const Labelled fitted = noise(1000, 5), held_out = noise(1000, 6);
  const double majority = majority_class_accuracy(fitted.classes, held_out.classes);
  BOOST_TEST(std::abs(majority - 0.7) <= 1e-15);
  const double accuracy = linear_probe(fitted.features, fitted.classes, held_out.features, held_out.classes);
  BOOST_TEST(std::abs(accuracy - majority) <= 0.03, "accuracy " << accuracy);
}

BOOST_AUTO_TEST_CASE(a_linear_probe_takes_odd_data) {
  // A column that never changes among the fitted samples, and held-out classes that were never fitted.
  const Labelled fitted = blobs(30, 0.5, 1), held_out = blobs(30, 0.5, 2);
  const auto widened = [](const Labelled& data, double third) {
    std::vector<double> wide;
    const std::vector<double> x = doubles(data.features);
    for (std::size_t i = 0; i < x.size(); i += 2) wide.insert(wide.end(), {x[i], third, x[i + 1]});
    return matrix(wide, data.features.size(0));
  };
  for (const double constant : {0.0, 0.1, 7.25, 1e9}) {
    for (const double held_out_constant : {constant, 0.5, -1e9}) {
      BOOST_TEST(linear_probe(widened(fitted, constant), fitted.classes, widened(held_out, held_out_constant),
                              held_out.classes) == 1);
    }
  }
  const Tensor unseen = Tensor::full({30}, 5, DType::kInt64);
  BOOST_TEST(linear_probe(fitted.features, fitted.classes, held_out.features, unseen) == 0);
  const Tensor one_class = Tensor::zeros({30}, DType::kInt64);
  BOOST_TEST(linear_probe(fitted.features, one_class, held_out.features, one_class) == 1);
  BOOST_TEST(linear_probe(fitted.features, fitted.classes, held_out.features, held_out.classes, {.steps = 0}) ==
             1.0 / 3);  // all logits equal: the first class
}

BOOST_AUTO_TEST_CASE(linear_probe_arguments) {
  const Labelled good = blobs(30, 0.5, 1);
  const auto probe = [&](const Tensor& features, const Tensor& classes) {
    linear_probe(features, classes, good.features, good.classes);
  };
  const auto held_out = [&](const Tensor& features, const Tensor& classes) {
    linear_probe(good.features, good.classes, features, classes);
  };
  const Tensor short_classes = good.classes.slice(0, 29);
  BOOST_CHECK_EXCEPTION(probe(good.features, short_classes), ShapeError, says({"fitted", "[30, 2]", "[29]"}));
  BOOST_CHECK_EXCEPTION(held_out(good.features, short_classes), ShapeError, says({"held-out", "[30, 2]", "[29]"}));
  BOOST_CHECK_THROW(probe(good.features, good.classes.to(DType::kFloat32)), ShapeError);
  BOOST_CHECK_THROW(probe(good.features.reshape({60}), good.classes), ShapeError);
  BOOST_CHECK_THROW(probe(good.features.slice(0, 0), good.classes.slice(0, 0)), ShapeError);
  BOOST_CHECK_THROW(held_out(good.features.slice(0, 0), good.classes.slice(0, 0)), ShapeError);
  BOOST_CHECK_THROW(probe(Tensor(), good.classes), ShapeError);
  BOOST_CHECK_THROW(probe(good.features, Tensor()), ShapeError);
  BOOST_CHECK_EXCEPTION(held_out(good.features.reshape({30, 2, 1}), good.classes), ShapeError, says({"held-out"}));
  BOOST_CHECK_EXCEPTION(held_out(random_values({30, 3}, 1), good.classes), ShapeError, says({"width 2 and 3"}));
}

BOOST_AUTO_TEST_CASE(a_linear_probe_names_negative_classes) {
  const Labelled good = blobs(30, 0.5, 1);
  for (const std::int64_t label : {-1, -2}) {
    const Tensor all = Tensor::full({30}, static_cast<double>(label), DType::kInt64);
    Tensor one = good.classes.clone();
    one.mutable_data<std::int64_t>()[4] = label;
    for (const Tensor& classes : {all, one}) {
      BOOST_CHECK_EXCEPTION(linear_probe(good.features, classes, good.features, good.classes), ValueError,
                            says({"linear_probe", "fitted", std::to_string(label)}));
      BOOST_CHECK_EXCEPTION(linear_probe(good.features, good.classes, good.features, classes), ValueError,
                            says({"linear_probe", "held-out", std::to_string(label)}));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_linear_probe_takes_no_nan_for_right) {
  const Labelled fitted = blobs(30, 0.5, 1), held_out = blobs(30, 0.5, 2);
  Tensor some = held_out.features.clone();
  for (std::int64_t i = 0; i < 15; ++i) some.mutable_data<double>()[2 * i + i % 2] = kNan;
  BOOST_TEST(linear_probe(fitted.features, fitted.classes, some, held_out.classes) == 0.5);
  for (const std::int64_t element : {0, 7, 59}) {
    Tensor spoilt = fitted.features.clone();
    spoilt.mutable_data<double>()[element] = kNan;
    BOOST_TEST(linear_probe(spoilt, fitted.classes, held_out.features, held_out.classes) == 0);
  }
}

BOOST_AUTO_TEST_CASE(the_majority_class) {
  const auto classes = [](const std::vector<std::int64_t>& c) {
    return Tensor::from(c, {static_cast<std::int64_t>(c.size())});
  };
  BOOST_TEST(majority_class_accuracy(classes({2, 0, 2, 1}), classes({2, 2, 0, 1})) == 0.5);
  BOOST_TEST(majority_class_accuracy(classes({2, 0, 2, 1}), classes({0, 1})) == 0);
  BOOST_TEST(majority_class_accuracy(classes({3}), classes({3, 3, 3})) == 1);
  const double tie = majority_class_accuracy(classes({1, 4, 4, 1}), classes({1, 1, 4, 7}));
  BOOST_TEST((tie == 0.5 || tie == 0.25));
  BOOST_CHECK_THROW(majority_class_accuracy(Tensor::zeros({0}, DType::kInt64), classes({1})), ShapeError);
  BOOST_CHECK_THROW(majority_class_accuracy(classes({1}), Tensor::zeros({0}, DType::kInt64)), ShapeError);
  BOOST_CHECK_THROW(majority_class_accuracy(Tensor(), classes({1})), Error);
  BOOST_CHECK_THROW(majority_class_accuracy(Tensor::zeros({3}), classes({1})), Error);
}

BOOST_AUTO_TEST_SUITE_END()
