#include <algorithm>
#include <span>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/losses/losses.h"

// What a cached step takes of a CUDA device's memory.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Hidden layers that take far more memory than anything else, the room that products work in on a real device
/// included.
struct WideThere {
  bool emulated = kCuda.name() == "emulated";
  std::int64_t samples = emulated ? 64 : 1024, hidden = emulated ? 64 : 8192;
  Encoder image = Encoder(1, DType::kFloat32, 0.1, 8, hidden, 4);
  Encoder text = Encoder(2, DType::kFloat32, 0.1, 8, hidden, 4);
  std::vector<Tower> towers{{"image", device_values({samples, 8}, 3, DType::kFloat32), image},
                            {"text", device_values({samples, 8}, 4, DType::kFloat32), text}};
  std::vector<Parameter> parameters = joined({image.parameters(), text.parameters()});
  Loss loss = [tile = ops::TileOptions{samples / 8, samples / 64}](std::span<const Variable> r) {
    return info_nce(r[0], r[1], {.scale = 3.0, .tiles = tile});
  };
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)

BOOST_AUTO_TEST_CASE(a_step_on_a_device_stays_within_its_budget, *on_device) {
  const WideThere setup;
  const StepResult direct = direct_step(setup.towers, setup.loss, device_options().direct());
  gradients_of(setup.parameters);
  const std::size_t base = allocator(kCuda).stats().current, host_base = allocator().stats().current;
  const PeakMeter host(Device::cpu());
  for (const double part : {0.6, 1.5}) {
    StepOptions options = device_options();
    const auto share = static_cast<std::size_t>(part * static_cast<double>(direct.peak_bytes - base));
    options.cut = MemoryBudget{base + share};
    BOOST_TEST_CONTEXT(part << " of what the direct step takes") {
      check_equal(compare(setup.towers, setup.loss, options, setup.parameters), 1e-5);
      const StepResult result = cached_step(setup.towers, setup.loss, options);
      gradients_of(setup.parameters);
      BOOST_TEST(result.peak_bytes <= std::get<MemoryBudget>(options.cut).bytes);
      BOOST_TEST((part < 1 ? result.chunks > 2 : result.kept_chunks == result.chunks));
    }
  }
  BOOST_TEST(allocator(kCuda).stats().limit == 0u);
  BOOST_TEST(host.peak() - host_base <= (direct.peak_bytes - base) / 10);
  StepOptions hopeless = device_options();
  hopeless.cut = MemoryBudget{base + 1000};
  BOOST_CHECK_EXCEPTION(cached_step(setup.towers, setup.loss, hopeless), OutOfMemory,
                        says({"memory budget", "'image'"}));
  for (const Parameter& p : setup.parameters) BOOST_TEST(!p.gradient().defined());
}

BOOST_AUTO_TEST_CASE(running_out_of_device_memory_halves_the_chunks, *on_device) {
  const WideThere setup;
  const std::size_t base = allocator(kCuda).stats().current;
  begin_random_step(1, 1);
  const std::size_t small = cached_step(setup.towers, setup.loss, device_options({setup.samples / 8})).peak_bytes;
  std::vector<Tensor> expected;
  for (const Tensor& gradient : gradients_of(setup.parameters)) expected.push_back(gradient.to(Device::cpu()));
  const MemoryLimit limit(small + (small - base) / 4, kCuda);
  StepOptions options = device_options({setup.samples});
  BOOST_CHECK_THROW(cached_step(setup.towers, setup.loss, options), OutOfMemory);
  for (const Parameter& p : setup.parameters) BOOST_TEST(!p.gradient().defined());
  options.retry_smaller_chunks = true;
  begin_random_step(1, 1);
  const StepResult retried = cached_step(setup.towers, setup.loss, options);
  const std::vector<Tensor> found = gradients_of(setup.parameters);
  for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(max_difference(found[i], expected[i]) <= 1e-5);
  BOOST_TEST(retried.retries > 0);
}

BOOST_AUTO_TEST_SUITE_END()
