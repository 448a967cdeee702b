#include <cmath>
#include <numbers>
#include <vector>

#include "tapecache/core/error.h"
#include "tapecache/train/optimizer.h"
#include "train_checks.h"

using namespace tapecache;
using namespace tapecache::testing;
using namespace tapecache::train;

namespace {}  // namespace

BOOST_AUTO_TEST_SUITE(schedule_and_clipping)

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
  BOOST_TEST(close(warmup_cosine(0, 0, 10, 0.3), 0.3));        // no warmup
  BOOST_TEST(close(warmup_cosine(9, 10, 10, 0.3, 0.1), 0.3));  // warmup alone
  BOOST_TEST(close(warmup_cosine(10, 10, 10, 0.3, 0.1), 0.1));
  BOOST_TEST(close(warmup_cosine(5, 0, 10, 0.3, 0.3), 0.3));  // floor = peak
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
  BOOST_CHECK_THROW(warmup_cosine(0, 0, 10, kNaN), ValueError);
  BOOST_CHECK_THROW(warmup_cosine(0, 0, 10, 1, kNaN), ValueError);
  BOOST_CHECK_EXCEPTION(warmup_cosine(3, 11, 10, 0.5), ValueError, says({"warmup 11", "total 10", "step 3"}));
}

BOOST_AUTO_TEST_CASE(gradients_are_clipped_by_their_common_norm) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const double tolerance = dtype == DType::kFloat32 ? 1e-6 : 1e-14;
    Parameter a("a", Tensor::zeros({2, 2}, dtype)), b("b", Tensor::zeros({}, dtype)), none("none", Tensor::zeros({3}));
    a.mutable_gradient() = Tensor::from(std::vector<double>{1, -2, 4, 0}, {2, 2}).to(dtype);
    b.mutable_gradient() = Tensor::full({}, 10, dtype);
    const std::vector<Parameter> parameters{a, none, b};
    BOOST_TEST(std::abs(gradient_norm(parameters).item() - 11) <= 1e-12);
    BOOST_TEST(std::abs(clip_gradient_norm(parameters, 11.5).item() - 11) <= 1e-12);
    check_equal(a.gradient(), {1, -2, 4, 0});
    BOOST_TEST(std::abs(clip_gradient_norm(parameters, 2.2).item() - 11) <= 1e-12);
    BOOST_TEST(max_difference(doubles(a.gradient()), std::vector{0.2, -0.4, 0.8, 0.0}) <= tolerance);
    BOOST_TEST(std::abs(b.gradient().item() - 2) <= 2 * tolerance);
    BOOST_TEST(!none.gradient().defined());
    BOOST_TEST(std::abs(gradient_norm(parameters).item() - 2.2) <= 4 * tolerance);
  }
}

BOOST_AUTO_TEST_CASE(gradients_that_are_not_finite_stay) {
  for (const double bad : {kNaN, kInfinity, -kInfinity}) {
    Parameter a("a", Tensor::zeros({2})), b("b", Tensor::zeros({2}));
    a.mutable_gradient() = Tensor::from(std::vector<float>{3, 400}, {2});
    b.mutable_gradient() = Tensor::from(std::vector<double>{bad, 5}, {2}).to(DType::kFloat32);
    const Tensor a_before = a.gradient().clone(), b_before = b.gradient().clone();
    const double norm = clip_gradient_norm(std::vector{a, b}, 1).item();
    BOOST_TEST(!std::isfinite(norm));
    BOOST_TEST(std::isnan(norm) == std::isnan(bad));
    BOOST_TEST(same_bits(a.gradient(), a_before));
    BOOST_TEST(same_bits(b.gradient(), b_before));
  }
  // Squares that overflow f32 are no reason not to clip.
  Parameter large("large", Tensor::zeros({2}));
  large.mutable_gradient() = Tensor::full({2}, 3e30);
  BOOST_TEST(std::abs(clip_gradient_norm(std::vector{large}, 1).item() / (3e30 * std::numbers::sqrt2) - 1) <= 1e-6);
  BOOST_TEST(std::abs(gradient_norm(std::vector{large}).item() - 1) <= 1e-6);
}

BOOST_AUTO_TEST_CASE(gradient_clipping_arguments) {
  const std::vector<Parameter> parameters = some_parameters();
  BOOST_TEST(gradient_norm({}).item() == 0);
  BOOST_TEST(clip_gradient_norm(parameters, 1).item() == 0);  // none has a gradient
  give_gradients(parameters, 1);
  for (const double bad : {0.0, -1.0, kNaN}) {
    BOOST_CHECK_EXCEPTION(clip_gradient_norm(parameters, bad), ValueError, says({"max_norm"}));
  }
  for (const Parameter& p : parameters) BOOST_TEST(same_bits(p.gradient(), gradient_of(p, 1)));
  const double norm = gradient_norm(parameters).item();
  BOOST_TEST(norm > 0);
  BOOST_TEST(clip_gradient_norm(parameters, kInfinity).item() == norm);
  for (const Parameter& p : parameters) BOOST_TEST(same_bits(p.gradient(), gradient_of(p, 1)));
}

/// Of transformers 5.24, `get_scheduler` at a learning rate of 1: lines by step, printed to their last digit.
struct Published {
  const char* name;
  std::int64_t warmup, total;
  int cycles;
  std::vector<double> factors;
};
const std::vector<Published> kPublished{
    {"constant", 0, 8, 1, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"constant_with_warmup", 3, 8, 1, {0, 0.33333333333333331, 0.66666666666666663, 1, 1, 1, 1, 1, 1, 1}},
    {"linear",
     3,
     10,
     1,
     {0, 0.33333333333333331, 0.66666666666666663, 1, 0.8571428571428571, 0.7142857142857143, 0.5714285714285714,
      0.42857142857142855, 0.2857142857142857, 0.14285714285714285, 0, 0}},
    {"linear", 0, 4, 1, {1, 0.75, 0.5, 0.25, 0, 0}},
    {"cosine",
     3,
     10,
     1,
     {0, 0.33333333333333331, 0.66666666666666663, 1, 0.95048443395120952, 0.8117449009293668, 0.61126046697815717,
      0.38873953302184283, 0.18825509907063326, 0.049515566048790483, 0, 0.049515566048790427}},
    {"cosine",
     0,
     5,
     1,
     {1, 0.90450849718747373, 0.65450849718747373, 0.34549150281252633, 0.09549150281252633, 0, 0.095491502812526219}},
    {"cosine_with_restarts",
     2,
     10,
     1,
     {0, 0.5, 1, 0.96193976625564337, 0.85355339059327373, 0.69134171618254492, 0.5, 0.30865828381745514,
      0.14644660940672627, 0.038060233744356631, 0, 0}},
    {"cosine_with_restarts",
     2,
     10,
     3,
     {0, 0.5, 1, 0.69134171618254492, 0.14644660940672627, 0.96193976625564337, 0.5, 0.038060233744356631,
      0.85355339059327373, 0.30865828381745514, 0, 0}}};

BOOST_AUTO_TEST_CASE(schedules_are_those_of_transformers) {
  for (const Published& of : kPublished) {
    for (std::size_t step = 0; step < of.factors.size(); ++step) {
      const double found =
          Schedule::parse(of.name).factor(static_cast<std::int64_t>(step), of.warmup, of.total, of.cycles);
      BOOST_TEST(std::abs(found - of.factors[step]) <= 1e-15, of.name << " at step " << step << " is " << found);
    }
  }
  BOOST_CHECK_EXCEPTION(Schedule::parse("cosin"), ValueError,
                        says({"'cosin'", "constant, constant_with_warmup, linear, cosine, cosine_with_restarts"}));
  BOOST_CHECK_EXCEPTION(Schedule(Schedule::Kind::kLinear).factor(-1, 0, 1), ValueError, says({"step -1"}));
  BOOST_CHECK_EXCEPTION(Schedule(Schedule::Kind::kLinear).factor(0, 0, 0), ValueError, says({"total 0"}));
  BOOST_CHECK_EXCEPTION(Schedule(Schedule::Kind::kCosineWithRestarts).factor(0, 0, 1, 0), ValueError,
                        says({"cycles 0"}));
}

BOOST_AUTO_TEST_SUITE_END()
