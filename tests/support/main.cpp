#define BOOST_TEST_MODULE tapecache
#include <cstdio>
#include <cstdlib>

#include <boost/test/unit_test.hpp>

#include "tapecache/core/error.h"
#include "tapecache/ops/kernels/table.h"

namespace {

/// Tests of kernels that this processor cannot run are skipped, and say so by the exit status that Meson knows.
struct RunnableKernels {
  RunnableKernels() {
    if (!std::getenv("TAPECACHE_CPU")) return;
    try {
      tapecache::kernels::cpu_variant();
    } catch (const tapecache::DeviceError& e) {
      std::printf("skipped: %s\n", e.what());
      std::exit(77);
    }
  }
};

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(RunnableKernels);

// Tests ask for more memory than there is and expect an exception, where a sanitizer would end the program.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" const char* __tsan_default_options() { return "allocator_may_return_null=1"; }
