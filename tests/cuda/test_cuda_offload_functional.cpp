#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_device.h"
#include "gradcache_checks.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/captured_step.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/cached.h"
#include "tapecache/losses/losses.h"

// The functional form, its sub-batches' representations in the host's memory: the same bits, in less of the device's
// memory.

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

/// Two towers of sub-batches that lie on the device, rows of the batch and of the representations being 256 bytes.
struct SubBatches {
  std::int64_t samples, size, width;
  Encoder image, text;
  Tensor images, texts;
  Loss loss = [](std::span<const Variable> r) { return info_nce(r[0], r[1], {.scale = 3.0, .tiles = {{64, 64}}}); };

  SubBatches(std::int64_t all, std::int64_t of_one, std::int64_t columns = 64)
      : samples(all),
        size(of_one),
        width(columns),
        image(Encoder(1, DType::kFloat32, 0.2, width, 8, width)),
        text(Encoder(2, DType::kFloat32, 0.2, width, 8, width)),
        images(random_values({all, width}, 3, DType::kFloat32).to(kCuda)),
        texts(random_values({all, width}, 4, DType::kFloat32).to(kCuda)) {}

  std::vector<CachedBatch> forward(bool offload) const {
    const auto parts = [&](const char* name, const Encoder& encoder, const Tensor& x) {
      CachedBatch batch{name, {}};
      for (std::int64_t begin = 0; begin < samples; begin += size) {
        CachedOptions options;
        options.offload = offload;
        if (!batch.chunks.empty()) options.after = &batch.chunks.back();
        batch.chunks.push_back(cached(encoder, x.slice(begin, std::min(samples, begin + size)), options));
      }
      return batch;
    };
    return {parts("image", image, images), parts("text", text, texts)};
  }
  std::vector<Parameter> parameters() const { return joined({image.parameters(), text.parameters()}); }
};

CachedBackwardOptions off_loading(bool offload) { return {.device = kCuda, .offload = offload}; }

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda)
BOOST_AUTO_TEST_SUITE(offload)

BOOST_AUTO_TEST_CASE(sub_batches_give_the_same_bits_wherever_they_wait, *on_device) {
  const SubBatches setup(19, 5);
  begin_random_step(7, 3);
  const StepResult expected = cached_backward(setup.forward(false), setup.loss, off_loading(false));
  const std::vector<Tensor> gradients = gradients_of(setup.parameters());
  for (const bool forwards : {false, true}) {
    for (const bool backward : {false, true}) {
      BOOST_TEST_CONTEXT("off-loading forwards " << forwards << ", backward " << backward) {
        begin_random_step(7, 3);
        const std::vector<CachedBatch> batches = setup.forward(forwards);
        for (const CachedForward& part : batches[0].chunks) {
          BOOST_TEST(part.representations()[0].is_pinned() == forwards);
        }
        const StepResult found = cached_backward(batches, setup.loss, off_loading(backward));
        BOOST_TEST(found.loss.item() == expected.loss.item());
        BOOST_TEST(found.representation_norms == expected.representation_norms);
        for (std::size_t i = 0; i < 2; ++i) {
          BOOST_TEST(found.representations[i].is_pinned() == backward);
          BOOST_TEST(same_bits(found.representations[i], expected.representations[i]));
        }
        const std::vector<Tensor> other = gradients_of(setup.parameters());
        for (std::size_t i = 0; i < gradients.size(); ++i) BOOST_TEST(same_bits(other[i], gradients[i]));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_sub_batch_that_was_off_loaded_is_replayed_by_hand, *on_device) {
  const SubBatches setup(8, 8);
  const Tensor gradient = random_values({8, setup.width}, 5, DType::kFloat32);
  const auto replayed = [&](bool offload, const Tensor& given) {
    begin_random_step(7, 3);
    setup.forward(offload)[0].chunks[0].backward(std::span(&given, 1));
    return gradients_of(setup.image.parameters());
  };
  const std::vector<Tensor> expected = replayed(false, gradient.to(kCuda));
  for (const Tensor& given : {gradient, gradient.pinned(), gradient.to(kCuda)}) {
    const std::vector<Tensor> found = replayed(true, given);
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]));
  }
}

BOOST_AUTO_TEST_CASE(off_loaded_sub_batches_take_less_of_the_devices_memory, *on_device) {
  const bool emulated = kCuda.name() == "emulated";
  const SubBatches setup(emulated ? 512 : 8192, emulated ? 64 : 1024, emulated ? 64 : 1024);
  const std::size_t rows = static_cast<std::size_t>(setup.samples * setup.width) * sizeof(float);  // of one tower
  const std::size_t slack = emulated ? 0 : std::size_t{33} << 20;  // cuBLASLt's memory for one product
  const auto measured = [&](bool offload) {
    begin_random_step(1, 1);
    const std::size_t base = allocator(kCuda).stats().current;
    const std::vector<CachedBatch> batches = setup.forward(offload);
    const std::size_t waiting = allocator(kCuda).stats().current - base;
    const std::size_t peak = cached_backward(batches, setup.loss, off_loading(offload)).peak_bytes - base;
    gradients_of(setup.parameters());
    return std::pair(waiting, peak);
  };
  const auto [waiting, peak] = measured(false);
  const auto [waiting_off_loaded, peak_off_loaded] = measured(true);
  BOOST_TEST(waiting >= 2 * rows);
  BOOST_TEST(waiting_off_loaded <= waiting - 2 * rows);
  BOOST_TEST(peak_off_loaded <= peak - 2 * rows + slack, "without " << peak << ", with " << peak_off_loaded);
}

BOOST_AUTO_TEST_CASE(off_loaded_sub_batches_in_a_captured_step, *on_device) {
  const SubBatches setup(8, 4);
  CachedBackwardOptions options = off_loading(true);
  options.deferred = true;
  const auto result_of = [&](std::uint32_t t) {
    begin_random_step(7, t);
    const StepResult result = cached_backward(setup.forward(true), setup.loss, off_loading(true));
    return std::tuple(result.loss.item(), result.representations[0], gradients_of(setup.parameters()));
  };
  std::vector<std::tuple<double, Tensor, std::vector<Tensor>>> expected;
  for (std::uint32_t t = 0; t < 3; ++t) expected.push_back(result_of(t));
  StepResult result;
  std::vector<Tensor> found;
  const auto recorded = [&] {
    result = cached_backward(setup.forward(true), setup.loss, options);
    found = gradients_of(setup.parameters());
  };
  CapturedStep step(kCuda, recorded, 7);
  for (const std::uint32_t t : {0u, 2u, 1u}) {
    step.replay(t);
    const auto& [loss, representations, gradients] = expected[t];
    BOOST_TEST(result.loss.item() == loss);
    BOOST_TEST(same_bits(result.representations[0], representations));
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], gradients[i]));
  }
  BOOST_TEST(step.captured());
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE_END()
