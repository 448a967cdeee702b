#include "checks.h"
#include "low_precision_checks.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/ops/linear.h"

using namespace tapecache;
using namespace tapecache::testing;

BOOST_TEST_DONT_PRINT_LOG_VALUE(tapecache::DType)

BOOST_AUTO_TEST_SUITE(low_precision)

BOOST_AUTO_TEST_CASE(results_of_16_bits) {
  for (const DType low : {DType::kBFloat16, DType::kFloat16}) {
    check_low_block(Device::cpu(), low);
    check_low_gated_block(Device::cpu(), low);
    check_low_readers(Device::cpu(), low);
    check_low_large_product(Device::cpu(), low);
  }
}

BOOST_AUTO_TEST_CASE(results_of_16_bits_are_read_outside_of_the_scope_too) {
  const Tensor x = random_values({5, 8}, 1, DType::kFloat32), w = random_values({6, 8}, 2, DType::kFloat32),
               next = random_values({4, 6}, 3, DType::kFloat32);
  const auto hidden = [&] {
    const Autocast on(DType::kFloat16);
    return ops::linear(x, w, {}, {}, ops::ResultType::kOperand);
  }();
  BOOST_TEST(hidden.dtype() == DType::kFloat16);
  const Tensor y = ops::linear(hidden, next).value(), wide = hidden.value().to(DType::kFloat32);
  BOOST_TEST(y.dtype() == DType::kFloat32);
  BOOST_TEST(max_difference(y, ops::linear(wide, next.to(DType::kFloat16).to(DType::kFloat32)).value()) <= 1e-6);
  // Without autocast there is nothing to round, and with a residual the result is of the residual's type.
  BOOST_TEST(ops::linear(x, w, {}, {}, ops::ResultType::kOperand).dtype() == DType::kFloat32);
  const Autocast on(DType::kFloat16);
  BOOST_TEST(ops::linear(x, w, {}, random_values({5, 6}, 4, DType::kFloat32), ops::ResultType::kOperand).dtype() ==
             DType::kFloat32);
}

BOOST_AUTO_TEST_SUITE_END()
