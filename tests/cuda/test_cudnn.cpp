#include <cstdlib>
#include <string>

#include "checks.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/cuda/cudnn_attention.h"

using namespace tapecache;
using namespace tapecache::testing;

// What the environment says is read when cuDNN is first asked for: hence one case, in a program of its own.
BOOST_AUTO_TEST_CASE(the_environment_says_whether_cudnn_is_used) {
  BOOST_REQUIRE(setenv("TAPECACHE_CUDNN", "abacus", 1) == 0);
  BOOST_CHECK_EXCEPTION(kernels::cuda::cudnn_version(), ValueError,
                        says({"TAPECACHE_CUDNN is 'abacus', expected always, never or auto"}));
  BOOST_REQUIRE(setenv("TAPECACHE_CUDNN", "never", 1) == 0);
  BOOST_TEST(kernels::cuda::cudnn_version() == "none: TAPECACHE_CUDNN is never");
  const kernels::Attention layout{2, 16, 2, 8, 1, false};
  float number = 0;
  BFloat16 low(0.0f);
  BOOST_TEST(!kernels::cuda::cudnn_attention(layout, &low, nullptr, &low, &number));
}
