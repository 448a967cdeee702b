#include <dlfcn.h>

#include <string>

#include "cudnn_device.h"
#include "tapecache/ops/cuda/cudnn_attention.h"

// cuDNN's answer to the graphs of attention for devices that need not be there: it looks for engines and compiles their
// kernels. A driver takes these; where there is none, the stand-in of driver_stand_in/, by which Meson runs this.

using namespace tapecache;
using namespace tapecache::kernels;
using namespace tapecache::testing;

namespace {

/// Of a data centre's device of a compute capability, in hundreds, as cuDNN writes them down.
std::string device(int capability) {
  const bool hopper = capability == 900;
  return R"({"cudaDeviceId":0,"deviceVer":)" + std::to_string(capability) +
         R"(,"driverVer":13000,)"
         R"("maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,)"
         R"("multiProcessorCount":)" +
         (hopper ? "132" : "108") +
         R"(,"warpSize":32,"maxSharedMemoryPerBlock":49152,)"
         R"("maxSharedMemoryPerBlockOptin":)" +
         (hopper ? "232448" : "166912") +
         R"(,"reservedSharedMemoryPerBlock":1024,)"
         R"("maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"pciDeviceId":0,)"
         R"("isTccDriver":0,"supportCoopLaunch":1,"smClockRateKHz":1400000,"memClockRateKHz":1600000,)"
         R"("l2CacheSize":41943040,"deviceName":"described","totalGlobalMem":42949672960})";
}

Attention layout(std::int64_t batch, std::int64_t tokens, std::int64_t heads, std::int64_t width, bool causal = false) {
  return {batch, tokens, heads, width, 0.125, causal};
}

boost::test_tools::assertion_result needs_driver(boost::unit_test::test_unit_id id) {
  if (dlopen("libcuda.so.1", RTLD_LAZY)) return true;
  return skip(id, "there is no driver, and no stand-in for one");
}

const auto with_driver = boost::unit_test::precondition(needs_driver);

}  // namespace

BOOST_AUTO_TEST_SUITE(cudnn_plans)

BOOST_AUTO_TEST_CASE(the_towers_of_clip_have_plans, *with_cudnn* with_driver) {
  for (const int capability : {800, 900}) {
    for (const Attention& tower : {layout(256, 50, 12, 64), layout(64, 257, 16, 64), layout(256, 77, 8, 64, true),
                                   layout(32, 17, 4, 24, true), layout(16, 197, 16, 80)}) {
      BOOST_TEST_CONTEXT("sm_" << capability / 10 << ", " << tower.tokens << " tokens of width " << tower.width) {
        BOOST_TEST(cuda::cudnn_attention_workspace<BFloat16>(tower, false, device(capability)) >= 0);
        BOOST_TEST(cuda::cudnn_attention_workspace<Float16>(tower, false, device(capability)) >= 0);
        const std::int64_t workspace = cuda::cudnn_attention_workspace<BFloat16>(tower, true, device(capability));
        // Gradients of the scores in 16 bits, in tiles of at most 128: what engines need that keep an order of sums.
        const std::int64_t tiles = (tower.tokens + 127) / 128 * 128;
        BOOST_TEST(workspace >= tower.batch * tower.heads * tower.tokens * tower.tokens * 2);
        BOOST_TEST(workspace <= tower.batch * tower.heads * tiles * tiles * 2 + (1 << 20));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(what_has_no_plan_is_declined, *with_cudnn* with_driver) {
  for (const Attention& odd : {layout(8, 16, 4, 4), layout(8, 1, 4, 64), layout(0, 16, 4, 64)}) {
    BOOST_TEST(cuda::cudnn_attention_workspace<BFloat16>(odd, false, device(900)) == -1);
    BOOST_TEST(cuda::cudnn_attention_workspace<BFloat16>(odd, true, device(900)) == -1);
  }
  // Engines for sm_80 take less.
  BOOST_TEST(cuda::cudnn_attention_workspace<BFloat16>(layout(8, 16, 4, 256), true, device(900)) >= 0);
  BOOST_TEST(cuda::cudnn_attention_workspace<BFloat16>(layout(8, 16, 4, 256), true, device(800)) == -1);
}

BOOST_AUTO_TEST_SUITE_END()
