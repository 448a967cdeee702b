#include "checks.h"

#include <functional>
#include <type_traits>
#include <vector>

#include "tapecache/autograd/gradcheck.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/elementwise.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(operators)

BOOST_AUTO_TEST_CASE(are_the_ops) {
  const Variable a = vector_of({6, 8}), b = vector_of({3, -2});
  check_equal((-a).value(), {-6, -8});
  check_equal((a + b).value(), {9, 6});
  check_equal((a - b).value(), {3, 10});
  check_equal((a * b).value(), {18, -16});
  check_equal((a / b).value(), {2, -4});
  check_equal((a + 1).value(), {7, 9});
  check_equal((1 + a).value(), {7, 9});
  check_equal((a - 1.5).value(), {4.5, 6.5});
  check_equal((1 - a).value(), {-5, -7});
  check_equal((a * 2).value(), {12, 16});
  check_equal((2.0f * a).value(), {12, 16});
  check_equal((a / 3).value(), {2, 8.0 / 3});
  check_equal((24 / a).value(), {4, 3});
  check_equal((-a * b + 2 * (a - b) / 2).value(), {-15, 26});
}

BOOST_AUTO_TEST_CASE(take_what_a_variable_is_made_of) {
  const Tensor t = Tensor::from({2.f, 4.f}, {2});
  const Parameter p("p", Tensor::from({3.f, 5.f}, {2}));
  const Variable v = t;
  check_equal((p * v).value(), {6, 20});
  check_equal((v * p).value(), {6, 20});
  check_equal((p * t).value(), {6, 20});
  check_equal((t + p).value(), {5, 9});
  check_equal((p * p).value(), {9, 25});
  check_equal((-p).value(), {-3, -5});
  check_equal((p / 2).value(), {1.5, 2.5});
  static_assert(std::is_same_v<decltype(t * t), Variable>);
  BOOST_CHECK(!(t * t).has_history());
  BOOST_CHECK((t + 0.1).dtype() == DType::kFloat32);
}

BOOST_AUTO_TEST_CASE(have_the_derivatives_of_the_ops) {
  const std::vector<std::function<Variable(const Variable&, const Variable&)>> formulas{
      [](const Variable& a, const Variable& b) { return (a + b) * (a - b) / (b * b + 1); },
      [](const Variable& a, const Variable& b) { return 2 / (a * a + 3) - (1 - b) * 0.5; },
      [](const Variable& a, const Variable& b) { return -(1.5 + a) / 3 - 2 * (b - 4); },
  };
  const std::vector<Tensor> inputs{random_values({2, 3}, 1), random_values({3}, 2)};
  for (const auto& formula : formulas) {
    const GradcheckResult result = gradcheck([&](std::span<const Variable> x) { return formula(x[0], x[1]); }, inputs);
    BOOST_CHECK_MESSAGE(result.passed, result.message);
  }
}

BOOST_AUTO_TEST_CASE(say_what_does_not_fit) {
  const Variable undefined, whole = Tensor::from({1, 2}, {2});
  BOOST_CHECK_EXCEPTION(undefined + 1, ValueError, says({"add:", "a is undefined"}));
  BOOST_CHECK_EXCEPTION(1 / undefined, ValueError, says({"divide:", "undefined"}));
  BOOST_CHECK_EXCEPTION(undefined * 2, ValueError, says({"scale:", "undefined"}));
  BOOST_CHECK_EXCEPTION(whole - 1, DTypeError, says({"subtract:", "int32"}));
}

BOOST_AUTO_TEST_CASE(numbers_beside_integers_are_refused_by_the_op) {
  const Variable whole(Tensor::from({1, 2}, {2}));
  for (const double number : {1e300, std::nan("")}) {
    BOOST_CHECK_EXCEPTION(whole + number, DTypeError, says({"add", "int32"}));
    BOOST_CHECK_EXCEPTION(number / whole, DTypeError, says({"divide", "int32"}));
  }
}

BOOST_AUTO_TEST_SUITE_END()
