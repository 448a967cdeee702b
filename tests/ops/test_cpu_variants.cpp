#include <cstdlib>
#include <string>

#include "checks.h"
#include "tapecache/core/error.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/kernels/table.h"

using namespace tapecache;
using namespace tapecache::testing;

// The variant is chosen once a process, at the first use that succeeds: hence one case, in a program of its own.
BOOST_AUTO_TEST_CASE(the_environment_names_the_kernels) {
  BOOST_REQUIRE(setenv("TAPECACHE_CPU", "abacus", 1) == 0);
  std::string built;
  try {
    ops::exp(vector_of({1}));
    BOOST_ERROR("an unknown name was taken");
  } catch (const ValueError& e) {
    const std::string message = e.what(), before = "expected one of ";
    BOOST_TEST(message.find("TAPECACHE_CPU is 'abacus'") != std::string::npos, message);
    BOOST_REQUIRE(message.find(before) != std::string::npos);
    built = message.substr(message.find(before) + before.size());
  }
  const std::string lowest = built.substr(0, built.find(','));
  BOOST_REQUIRE(setenv("TAPECACHE_CPU", lowest.c_str(), 1) == 0);
  BOOST_TEST(kernels::cpu_variant() == lowest);
  BOOST_TEST(max_difference(ops::exp(vector_of({1})).value(), vector_of({2.718281828459045})) <= 1e-15);
  BOOST_REQUIRE(setenv("TAPECACHE_CPU", "abacus", 1) == 0);
  BOOST_TEST(kernels::cpu_variant() == lowest);
}
