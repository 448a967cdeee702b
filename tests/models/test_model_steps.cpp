#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "gradcache_checks.h"
#include "model_checks.h"
#include "tapecache/core/random.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/clip.h"

// Steps of a whole model, on the device under test.

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(model_steps)

BOOST_AUTO_TEST_CASE(cached_step_equals_direct_step, *on_device) {
  constexpr std::int64_t kSamples = 5;
  for (const bool checkpoint : {false, true}) {
    const Clip clip(small_clip(0.2, checkpoint), 61, DType::kFloat64);
    shake(clip.parameters(), 1000);
    Parameter(clip.logit_scale()).mutable_value().fill(1.5);
    clip.to(kDevice);
    const std::vector<gradcache::Tower> towers{
        {"image", small_images(kSamples).to(kDevice),
         [clip](const Tensor& images) { return clip.encode_image(images); }},
        {"text", sentences().to(kDevice), [clip](const TokenBatch& tokens) { return clip.encode_text(tokens); }}};
    const gradcache::Loss loss = [clip](std::span<const Variable> r) {
      return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(clip.logit_scale())});
    };
    const auto check = [&](std::vector<std::int64_t> chunks) {
      begin_random_step(5, 3);
      const gradcache::Comparison c =
          gradcache::compare(towers, loss, device_options(std::move(chunks)), clip.parameters());
      BOOST_TEST(c.parameters.size() == clip.parameters().size());
      BOOST_TEST(c.relative_norm <= 1e-12);
      BOOST_TEST(std::abs(c.loss_reference - c.loss_other) <= 1e-12);
      for (const gradcache::Comparison::Difference& p : c.parameters) {
        // That gradient is 0 but for rounding, so that nothing is relative to it.
        const double difference = p.name.ends_with("k_proj.bias") ? p.max_absolute : p.max_relative;
        BOOST_TEST(difference <= 1e-12, p.name << ": " << difference);
      }
    };
    // Of the other sizes smaller encoders tell on every device.
    for (std::int64_t chunk = kDevice.is_cpu() ? 1 : 2; chunk <= (kDevice.is_cpu() ? kSamples + 1 : 2); ++chunk) {
      BOOST_TEST_CONTEXT("chunk " << chunk << (checkpoint ? ", checkpointed" : "")) { check({chunk}); }
    }
    check({2, 3});

    const gradcache::Comparison accumulated = gradcache::compare_steps(
        [&] { return gradcache::direct_step(towers, loss, device_options({}).direct()); },
        [&] { return gradcache::accumulated_step(towers, loss, {.chunk_sizes = {2}, .device = kDevice}); },
        clip.parameters());
    BOOST_TEST(accumulated.relative_norm > 1e-2);

    clear_gradients(clip.parameters());
    const gradcache::StepResult step = gradcache::cached_step(towers, loss, device_options({2}));
    BOOST_TEST(step.parameters.size() == clip.parameters().size());
    for (const Parameter& p : clip.parameters()) BOOST_TEST(p.gradient().defined(), p.name());
  }
}

BOOST_AUTO_TEST_SUITE_END()
