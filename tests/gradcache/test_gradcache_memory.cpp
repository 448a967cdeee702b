#include <cmath>
#include <vector>

#include "gradcache_checks.h"
#include "small_model.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/device.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/gradcache/plan_shares.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

StepOptions budget(std::size_t bytes) {
  StepOptions options;
  options.cut = MemoryBudget{bytes};
  return options;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_memory)

BOOST_AUTO_TEST_CASE(a_step_stays_within_its_budget) {
  SmallModel model(96);
  const std::vector<Tower> towers = model.towers();
  const StepResult direct = direct_step(towers, model.loss());
  model.clear();
  const std::size_t base = allocator().stats().current;
  std::int64_t last_kept = 0;
  double last_share = 0;
  for (const double part : {0.08, 0.2, 0.4, 0.7, 1.3}) {
    const auto bytes = base + static_cast<std::size_t>(part * static_cast<double>(direct.peak_bytes - base));
    BOOST_TEST_CONTEXT(part << " of what the direct step takes") {
      check_close(compare(towers, model.loss(), budget(bytes), model.clip.parameters()), 1e-5);
      model.clear();
      const StepResult result = cached_step(towers, model.loss(), budget(bytes));
      model.clear();
      BOOST_TEST(result.peak_bytes <= bytes);
      BOOST_TEST(result.retries == 0);
      const double share = static_cast<double>(result.kept_chunks) / static_cast<double>(result.chunks);
      BOOST_TEST(share >= last_share);
      last_share = share;
      last_kept = result.kept_chunks;
    }
  }
  BOOST_TEST(last_share == 1.0);
  BOOST_TEST(last_kept > 0);
}

BOOST_AUTO_TEST_CASE(a_tight_budget_keeps_nothing_and_an_ample_one_all) {
  SmallModel model(64);
  const std::vector<Tower> towers = model.towers();
  const std::size_t base = allocator().stats().current;
  int forwards = 0;
  const auto counting = [&](const Tensor& x) {
    ++forwards;
    return model.clip.encode_image(x);
  };
  const std::vector<Tower> counted{{"image", model.images, counting}, towers[1]};
  StepOptions ample = budget(base + (std::size_t{1} << 30));
  ample.cut = plan_memory(counted, ample);
  BOOST_TEST((std::get<MemoryPlan>(ample.cut).chunk_sizes == std::vector<std::int64_t>{64, 64}));
  forwards = 0;
  const StepResult kept = cached_step(counted, model.loss(), ample);
  BOOST_TEST(kept.kept_chunks == 2);
  BOOST_TEST(forwards == 1);

  StepOptions tight = ample;
  std::get<MemoryPlan>(tight.cut).kept_chunks = 0;
  forwards = 0;
  BOOST_TEST(cached_step(counted, model.loss(), tight).kept_chunks == 0);
  BOOST_TEST(forwards == 2);
}

BOOST_AUTO_TEST_CASE(a_budget_that_holds_nothing) {
  const SmallModel model(16);
  const std::size_t base = allocator().stats().current;
  BOOST_CHECK_EXCEPTION(cached_step(model.towers(), model.loss(), budget(base + 2000)), OutOfMemory,
                        says({"memory budget", "'image'"}));
  for (const Parameter& p : model.clip.parameters()) BOOST_TEST(!p.gradient().defined());
  BOOST_TEST(allocator().stats().limit == 0u);
}

BOOST_AUTO_TEST_CASE(kept_tapes_give_way_to_the_loss) {
  SmallModel model(64);
  const std::vector<Tower> towers = model.towers();
  const Comparison want = compare(towers, model.loss(), {{8}}, model.clip.parameters());
  BOOST_TEST(want.relative_norm <= 1e-5);
  // A plan that is too hopeful: every tape kept, under a limit that holds half of them.
  StepOptions hopeful;
  hopeful.cut = MemoryPlan{{8, 8}, 16};
  const std::size_t base = allocator().stats().current;
  const StepResult all = cached_step(towers, model.loss(), hopeful);
  model.clear();
  BOOST_TEST(all.kept_chunks == 16);
  const MemoryLimit limit(base + (all.peak_bytes - base) / 2);
  check_close(compare_steps([&] { return cached_step(towers, model.loss(), {{8}}); },
                            [&] {
                              const StepResult some = cached_step(towers, model.loss(), hopeful);
                              BOOST_TEST(some.kept_chunks > 0);
                              BOOST_TEST(some.kept_chunks < 16);
                              return some;
                            },
                            model.clip.parameters()),
              1e-6);
  // A loss that needs more than is left takes it from the tapes.
  const Loss greedy = [&](std::span<const Variable> r) {
    const Tensor room = Tensor::empty({static_cast<std::int64_t>((all.peak_bytes - base) / 4 / 4)});
    return clip_loss(r[0], r[1], {.scale = Scale::from_log(model.clip.logit_scale())});
  };
  check_close(compare_steps([&] { return cached_step(towers, model.loss(), {{8}}); },
                            [&] { return cached_step(towers, greedy, hopeful); }, model.clip.parameters()),
              1e-6);
}

BOOST_AUTO_TEST_CASE(smaller_chunks_after_running_out) {
  SmallModel model(32);
  const std::vector<Tower> towers = model.towers();
  const std::size_t base = allocator().stats().current;
  const StepResult small = cached_step(towers, model.loss(), {{4}});
  model.clear();
  const MemoryLimit limit(small.peak_bytes + (small.peak_bytes - base) / 2);
  StepOptions options{{32}};
  BOOST_CHECK_THROW(cached_step(towers, model.loss(), options), OutOfMemory);
  options.retry_smaller_chunks = true;
  StepResult retried;
  check_close(
      compare_steps([&] { return cached_step(towers, model.loss(), {{4}}); },
                    [&] { return retried = cached_step(towers, model.loss(), options); }, model.clip.parameters()),
      1e-5);
  BOOST_TEST(retried.retries > 0);
  BOOST_TEST(retried.chunks > 2);
  std::vector<double> seconds;
  options.observer = [&](const Progress& progress) { seconds.push_back(progress.seconds); };
  cached_step(towers, model.loss(), options);
  BOOST_TEST(std::ranges::is_sorted(seconds));  // across attempts too
  const MemoryLimit hopeless(base + 1000);
  BOOST_CHECK_THROW(cached_step(towers, model.loss(), options), OutOfMemory);
}

BOOST_AUTO_TEST_CASE(off_loading_changes_nothing_on_the_cpu) {
  const ClipSetup setup(23, DType::kFloat32, 0.2);
  const auto take = [&](std::span<const Tower> towers, bool offload) {
    begin_random_step(3, 4);
    StepOptions options;
    options.cut = MemoryPlan{{4, 5}, 3};
    options.offload = offload;
    const StepResult result = cached_step(towers, setup.loss(), options);
    std::vector<Tensor> found = result.representations;
    for (Parameter p : setup.parameters()) {
      found.push_back(p.gradient().clone());
      p.clear_gradient();
    }
    return std::pair(result.peak_bytes, std::move(found));
  };
  const std::vector<Tower> plain = setup.towers();
  std::vector<Tower> uploading;
  for (const Tower& tower : plain) uploading.push_back(tower.upload_to(Device::cpu()));
  const std::size_t base = allocator().stats().current;
  const auto [peak, expected] = take(plain, false);
  const std::size_t held = allocator().stats().current - base;
  const auto [peak_offloading, found] = take(uploading, true);
  BOOST_TEST(peak_offloading == peak + held);
  for (std::size_t i = 0; i < expected.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]));
}

BOOST_AUTO_TEST_CASE(the_class_form_plans_once) {
  SmallModel model(48);
  std::vector<Tower> towers = model.towers();
  const std::size_t base = allocator().stats().current;
  const std::size_t direct = direct_step(towers, model.loss()).peak_bytes;
  model.clear();
  GradCache grad_cache(model.loss(), budget(base + (direct - base) / 3), {.every = 2, .samples = 8});
  BOOST_TEST(!grad_cache.plan().has_value());
  for (int step = 0; step < 4; ++step) {
    begin_random_step(1, static_cast<std::uint32_t>(step));
    const RandomState before = random_state();
    const StepResult result = grad_cache.step(towers);
    BOOST_TEST((result.status == StepStatus::kDone));
    BOOST_TEST(result.peak_bytes <= base + (direct - base) / 3);
    BOOST_TEST(grad_cache.checked().has_value() == (step % 2 == 0));
    if (grad_cache.checked()) {
      BOOST_TEST(grad_cache.checked()->parameters.size() == model.clip.parameters().size());
      check_close(*grad_cache.checked(), 1e-5);
    }
    // The check left no trace: the same step without it gives the same bits.
    std::vector<Tensor> found;
    for (const Parameter& p : model.clip.parameters()) found.push_back(p.gradient().clone());
    model.clear();
    random_state() = before;
    StepOptions same = grad_cache.options();
    same.cut = *grad_cache.plan();
    cached_step(towers, model.loss(), same);
    for (std::size_t i = 0; i < found.size(); ++i) {
      BOOST_TEST(same_bits(found[i], model.clip.parameters()[i].gradient()));
    }
    found.clear();
    model.clear();
  }
  BOOST_TEST(grad_cache.steps() == 4);
  BOOST_TEST(grad_cache.skipped_steps() == 0);
  towers = {towers[0].first(8), towers[1].first(8)};
  grad_cache.step(towers);
  BOOST_TEST((grad_cache.plan()->chunk_sizes == plan_memory(towers, grad_cache.options()).chunk_sizes));
  BOOST_CHECK_THROW(GradCache(model.loss(), {{4}}, {.every = -1, .samples = 4}), ValueError);
  BOOST_CHECK_THROW(GradCache(model.loss(), {{4}}, {.every = 1, .samples = 0}), ValueError);
}

BOOST_AUTO_TEST_CASE(peak_bytes_stay_flat_as_the_batch_grows) {
  const auto beyond_the_data = [](std::int64_t samples) {
    SmallModel model(samples);
    const std::size_t base = allocator().stats().current;
    StepResult result = cached_step(model.towers(),
                                    [](std::span<const Variable> r) {
                                      // O(N): every image against its own text alone
                                      return ops::sum(ops::multiply(r[0], r[1]));
                                    },
                                    {{16}});
    std::size_t data = 0;
    for (const Tensor& r : result.representations) data += 2 * r.bytes();
    return static_cast<double>(result.peak_bytes - base - data);
  };
  const double at_64 = beyond_the_data(64), at_512 = beyond_the_data(512);
  BOOST_TEST(at_512 <= 1.05 * at_64 + 4.0 * 8 * (512 - 64) * 2);
}

BOOST_AUTO_TEST_CASE(peak_memory_is_flat_as_the_batch_grows) {
  // Wide hidden layers: activations outweigh representations by far.
  const auto extra_bytes = [](std::int64_t n) {
    const Encoder image(1, DType::kFloat32, 0.1, 8, 512, 4), text(2, DType::kFloat32, 0.1, 8, 512, 4);
    const Tensor images = random_values({n, 8}, 3, DType::kFloat32), texts = random_values({n, 8}, 4, DType::kFloat32);
    const std::vector<Tower> towers{{"image", images, image}, {"text", texts, text}};
    const Loss loss = [](std::span<const Variable> r) {
      return ops::sum(ops::multiply(r[0], r[1]));  // no N×N logits: what is measured is the step itself
    };
    cached_step(towers, loss, {{16}});
    allocator().reset_peak();
    const std::size_t before = allocator().stats().current;
    cached_step(towers, loss, {{16}});
    const std::size_t of_batch = static_cast<std::size_t>(n) * 4 * sizeof(float);
    return static_cast<double>(allocator().stats().peak - before) - 6.0 * static_cast<double>(of_batch);
  };
  const double small = extra_bytes(64), large = extra_bytes(4096);
  BOOST_TEST(small > 0);
  BOOST_TEST(large <= 1.05 * small);
}

BOOST_AUTO_TEST_CASE(fits_under_a_limit_that_direct_does_not) {
  const Encoder image(1, DType::kFloat32, 0.1, 8, 512, 4), text(2, DType::kFloat32, 0.1, 8, 512, 4);
  const std::vector<Tower> towers{{"image", random_values({512, 8}, 3, DType::kFloat32), image},
                                  {"text", random_values({512, 8}, 4, DType::kFloat32), text}};
  const Loss loss = [](std::span<const Variable> r) { return ops::sum(ops::multiply(r[0], r[1])); };
  const std::size_t in_use = allocator().stats().current;
  const MemoryLimit limit(in_use + (1 << 20));
  BOOST_CHECK_THROW(direct_step(towers, loss), OutOfMemory);
  BOOST_TEST(allocator().stats().current == in_use);
  BOOST_CHECK_NO_THROW(cached_step(towers, loss, {{16}}));
}

BOOST_AUTO_TEST_CASE(a_plan_counts_the_representations_that_a_rank_will_hold) {
  // Of the other rank's 20,000 samples too, unless the loss is shared.
  const ClipSetup setup(20000, DType::kFloat32);
  const gradcache::detail::Share half{{20000, 20000}, 0, 20000, 40000};
  const auto chunk_size = [&](bool shared) {
    const std::size_t budget = Device::cpu().memory_stats().current + (std::size_t{6} << 20);
    const std::vector<gradcache::detail::Share> shares{half, half};
    return gradcache::detail::plan_shares(setup.towers(), shares, {.cut = MemoryBudget{budget}, .shared_loss = shared})
        .chunk_sizes.at(0);
  };
  const std::int64_t gathered = chunk_size(false), alone = chunk_size(true);
  BOOST_TEST(gathered < alone);
  BOOST_TEST(alone < 20000);
}

BOOST_AUTO_TEST_SUITE_END()
