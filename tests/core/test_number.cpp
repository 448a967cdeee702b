#include <type_traits>

#include "checks.h"
#include "tapecache/core/number.h"

using namespace tapecache;
using namespace tapecache::testing;

// A truth is no count: a call that took one is to fail when it is compiled, not to be taken for its opposite.
static_assert(!std::is_convertible_v<bool, Number>);
static_assert(std::is_convertible_v<int, Number> && std::is_convertible_v<float, Number>);

BOOST_AUTO_TEST_SUITE(number)

BOOST_AUTO_TEST_CASE(of_the_host) {
  const Number number = 0.1;
  BOOST_TEST(!number.is_on_device());
  BOOST_TEST(!number.tensor().defined());
  BOOST_TEST(number.item() == 0.1);
  const Tensor there = number.on(Device::cpu());
  BOOST_TEST((there.dtype() == DType::kFloat64 && there.rank() == 0));
  BOOST_TEST(there.item() == 0.1);
  BOOST_TEST(Number(3).item() == 3.0);
}

BOOST_AUTO_TEST_CASE(of_a_device_is_what_it_holds_now) {
  Tensor scalar = Tensor::full({1}, 0.1, DType::kFloat64);
  const Number number = scalar;
  BOOST_TEST(number.is_on_device());
  BOOST_TEST(number.tensor().rank() == 0);
  BOOST_TEST(number.on(Device::cpu()).shares_storage(scalar));
  BOOST_TEST(number.item() == 0.1);
  scalar.fill(0.3);
  BOOST_TEST(number.item() == 0.3);
}

BOOST_AUTO_TEST_CASE(other_tensors_are_refused) {
  BOOST_CHECK_EXCEPTION(Number{Tensor()}, ShapeError, says({"number", "undefined", "float64 scalar"}));
  BOOST_CHECK_EXCEPTION(Number(Tensor::zeros({2}, DType::kFloat64)), ShapeError,
                        says({"number", "[2]", "float64 scalar"}));
  BOOST_CHECK_EXCEPTION(Number(Tensor::scalar(0.1f)), DTypeError, says({"number", "float32", "float64 scalar"}));
}

BOOST_AUTO_TEST_SUITE_END()
