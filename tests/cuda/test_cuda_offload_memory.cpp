#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"

// What off-loading and uploading take of the device's memory, and what is left where a step with them fails.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Encoders whose work on a chunk takes about as much memory as the representations and their gradients, unless their
/// layers have other widths: multiples of that of the representations.
struct WideOutputs {
  explicit WideOutputs(std::int64_t input = 1, std::int64_t hidden = 8) : in(input * width), between(hidden * width) {}

  bool emulated = kCuda.name() == "emulated";
  std::int64_t samples = emulated ? 512 : 8192, width = emulated ? 64 : 1024, chunk = samples / 4, in, between;
  Encoder image = Encoder(1, DType::kFloat32, 0.1, in, between, width);
  Encoder text = Encoder(2, DType::kFloat32, 0.1, in, between, width);
  Tensor images = random_values({samples, in}, 3, DType::kFloat32),
         texts = random_values({samples, in}, 4, DType::kFloat32);
  Loss loss = [tile = ops::TileOptions{samples / 8, samples / 64}](std::span<const Variable> r) {
    return info_nce(r[0], r[1], {.scale = 3.0, .tiles = tile});
  };
  std::vector<Parameter> parameters = joined({image.parameters(), text.parameters()});

  std::vector<Tower> there() const { return {{"image", images.to(kCuda), image}, {"text", texts.to(kCuda), text}}; }
  std::vector<Tower> here() const {
    return {Tower("image", images.pinned(), image).upload_to(kCuda),
            Tower("text", texts.pinned(), text).upload_to(kCuda)};
  }
  /// What two peaks may differ by without either having kept more: cuBLASLt's memory for one product.
  std::size_t slack() const { return emulated ? 4096 : std::size_t{33} << 20; }
  /// Bytes of both towers' representations and their gradients.
  std::size_t cache_bytes() const { return static_cast<std::size_t>(4 * samples * width) * sizeof(float); }
};

/// The most that a step takes beside what is there before it.
std::size_t peak_of(const WideOutputs& setup, const std::vector<Tower>& towers, const StepOptions& options) {
  begin_random_step(1, 1);
  const std::size_t base = allocator(kCuda).stats().current;
  const std::size_t peak = cached_step(towers, setup.loss, options).peak_bytes - base;
  gradients_of(setup.parameters);
  return peak;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)
BOOST_AUTO_TEST_SUITE(offload)

BOOST_AUTO_TEST_CASE(off_loading_takes_less_of_the_devices_memory, *on_device) {
  const WideOutputs setup;
  StepOptions options = device_options({setup.chunk});
  const std::size_t cache = setup.cache_bytes(), rows = cache / 16;  // of one chunk of one tower
  const std::size_t without = peak_of(setup, setup.there(), options);
  options.offload = true;
  const std::size_t with = peak_of(setup, setup.there(), options);
  // At its peak the backward of the second tower's chunks has all representations and one tower's gradients beside it;
  // of those that are off-loaded, the rows of two chunks.
  BOOST_TEST(without - with >= cache * 3 / 4 - 2 * rows - setup.slack(), "without " << without << ", with " << with);

  const std::size_t inputs = static_cast<std::size_t>(2 * setup.samples * setup.in) * sizeof(float);
  const std::size_t before = allocator(kCuda).stats().current;
  const std::vector<Tower> here = setup.here(), there = setup.there();
  BOOST_TEST(allocator(kCuda).stats().current - before >= inputs);
  const std::size_t uploading = peak_of(setup, here, options);
  BOOST_TEST(uploading <= with + inputs / 4 + setup.slack(), "uploading " << uploading << ", with " << with);
}

BOOST_AUTO_TEST_CASE(a_budget_holds_more_tapes_where_representations_are_off_loaded, *on_device) {
  for (const auto& [input, hidden] : {std::pair{1, 8}, {1, 1}, {8, 1}}) {
    const WideOutputs setup(input, hidden);
    StepOptions options = device_options({setup.chunk});
    const std::size_t needed = peak_of(setup, setup.there(), options);
    const std::vector<Tower> here = setup.here(), there = setup.there();
    options.cut = MemoryBudget{allocator(kCuda).stats().current + needed * 3 / 2};
    const auto kept = [](const MemoryPlan& plan) { return plan.kept_chunks * plan.chunk_sizes[0]; };
    const std::int64_t kept_without = kept(plan_memory(there, options));
    options.offload = true;
    for (const std::vector<Tower>& towers : {there, here}) {
      BOOST_TEST_CONTEXT("input " << input << ", hidden " << hidden << ", uploads " << towers[0].uploads()) {
        const MemoryPlan plan = plan_memory(towers, options);
        if (!towers[0].uploads()) BOOST_TEST(kept(plan) > kept_without);  // else tapes hold their inputs too
        begin_random_step(1, 1);
        const StepResult result = cached_step(towers, setup.loss, options);
        BOOST_TEST(result.peak_bytes <= std::get<MemoryBudget>(options.cut).bytes);
        BOOST_TEST(result.retries == 0);
        BOOST_TEST(result.kept_chunks == plan.kept_chunks);
        gradients_of(setup.parameters);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_failure_in_the_middle_leaves_nothing_behind, *on_device) {
  const WideOutputs setup;
  StepOptions options = device_options({setup.chunk});
  options.offload = true;
  begin_random_step(2, 2);
  const StepResult expected = cached_step(setup.here(), setup.loss, options);
  const std::vector<Tensor> gradients = gradients_of(setup.parameters);
  const std::size_t device = allocator(kCuda).stats().current, host = pinned_allocator().stats().current;
  for (const int last : {1, 3, 7, 10, 16}) {
    int calls = 0;
    const auto failing = [&](const Tensor& x) {
      if (++calls == last) throw std::runtime_error("enough");
      return setup.image(x);
    };
    {
      const std::vector<Tower> towers{Tower("image", setup.images, failing).upload_to(kCuda),
                                      Tower("text", setup.texts.pinned(), [&](const Tensor& x) {
                                        return ++calls == last ? throw std::runtime_error("enough") : setup.text(x);
                                      }).upload_to(kCuda)};
      begin_random_step(2, 2);
      const RandomState before = random_state();
      BOOST_CHECK_THROW(cached_step(towers, setup.loss, options), std::runtime_error);
      BOOST_TEST((random_state() == before));
    }
    for (const Parameter& p : setup.parameters) BOOST_TEST(!p.gradient().defined());
    BOOST_TEST(allocator(kCuda).stats().current == device);
    BOOST_TEST(pinned_allocator().stats().current == host);
    begin_random_step(2, 2);
    BOOST_TEST(cached_step(setup.here(), setup.loss, options).loss.item() == expected.loss.item());
    const std::vector<Tensor> found = gradients_of(setup.parameters);
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], gradients[i]));
  }
}

BOOST_AUTO_TEST_CASE(running_out_of_memory_while_off_loading, *on_device) {
  const WideOutputs setup;
  StepOptions options = device_options({setup.chunk});
  options.offload = true;
  const std::vector<Tower> towers = setup.here();
  begin_random_step(2, 2);
  cached_step(towers, setup.loss, options);
  const std::vector<Tensor> gradients = gradients_of(setup.parameters);
  const std::size_t needed = peak_of(setup, towers, options), device = allocator(kCuda).stats().current;
  {
    const MemoryLimit limit(device + needed + needed / 8, kCuda);
    options.cut = {setup.samples};
    BOOST_CHECK_THROW(cached_step(towers, setup.loss, options), OutOfMemory);
    for (const Parameter& p : setup.parameters) BOOST_TEST(!p.gradient().defined());
    BOOST_TEST(allocator(kCuda).stats().current == device);
    options.retry_smaller_chunks = true;
    begin_random_step(2, 2);
    const StepResult retried = cached_step(towers, setup.loss, options);
    BOOST_TEST(retried.retries > 0);
    const std::vector<Tensor> found = gradients_of(setup.parameters);
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(max_difference(found[i], gradients[i]) <= 1e-5);
  }
  Allocator& pinned = pinned_allocator();
  pinned.set_limit(pinned.stats().current + 100);
  options.retry_smaller_chunks = false;
  options.cut = {setup.chunk};
  BOOST_CHECK_EXCEPTION(cached_step(towers, setup.loss, options), OutOfMemory, says({"page-locked memory"}));
  pinned.set_limit(0);
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE_END()
