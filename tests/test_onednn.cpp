#include <cstdlib>
#include <string>

#include "checks.h"
#include "tapecache/autograd/autocast.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/matmul.h"

using namespace tapecache;
using namespace tapecache::testing;

// What the environment says is read at the first product that needs it: hence one case, in a program of its own.
BOOST_AUTO_TEST_CASE(the_environment_says_whether_onednn_multiplies) {
  const Autocast autocast(DType::kBFloat16);
  const Tensor a = random_values({20, 70}, 1, DType::kFloat32), b = random_values({70, 30}, 2, DType::kFloat32);
  BOOST_REQUIRE(setenv("TAPECACHE_ONEDNN", "abacus", 1) == 0);
  try {
    ops::matmul(a, b);
    BOOST_ERROR("an unknown word was taken");
  } catch (const ValueError& e) {
    const std::string message = e.what();
    BOOST_TEST(message.find("TAPECACHE_ONEDNN is 'abacus', expected always, never or auto") != std::string::npos,
               message);
  }
  BOOST_REQUIRE(setenv("TAPECACHE_ONEDNN", "always", 1) == 0);
#if TAPECACHE_HAS_ONEDNN
  const Tensor c = ops::matmul(a, b).value();
  BOOST_TEST(max_difference(c, ops::matmul(a.to(DType::kBFloat16).to(DType::kFloat64),
                                           b.to(DType::kBFloat16).to(DType::kFloat64)).value()) <= 1e-5);
#else
  BOOST_CHECK_THROW(ops::matmul(a, b), DeviceError);
#endif
}
