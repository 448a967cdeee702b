#include <algorithm>
#include <utility>
#include <vector>

#include "gradcache_checks.h"
#include "small_model.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/ops/layout.h"

using namespace tapecache;
using namespace tapecache::gradcache;
using namespace tapecache::losses;
using namespace tapecache::testing;

namespace {

void check_same_bits(const std::vector<Tensor>& found, const std::vector<Tensor>& expected,
                     std::span<const Parameter> parameters) {
  BOOST_REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    BOOST_REQUIRE(expected[i].defined());
    BOOST_TEST(same_bits(found[i], expected[i]), parameters[i].name());
  }
}

class Threads {
 public:
  explicit Threads(int count) : previous_(thread_count()) { set_thread_count(count); }
  ~Threads() { set_thread_count(previous_); }

 private:
  int previous_;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(gradcache_reproducible)

BOOST_AUTO_TEST_CASE(direct_and_cached_gradients_are_equal_to_the_last_bit) {
  const SmallModel model(45);  // the last block is ragged
  const std::vector<Tower> towers = model.towers();
  StepOptions options;
  options.reproducible_block = 8;
  begin_random_step(7, 3);
  const StepResult direct = direct_step(towers, model.loss(), options.direct());
  const RandomState after = random_state();
  const std::vector<Tensor> expected = gradients_of(model.clip.parameters());
  for (const int threads : {1, 2, 4}) {
    const Threads guard(threads);
    for (std::int64_t chunk = 8; chunk <= 48; chunk += 8) {
      for (const std::int64_t kept : {0, 1, 3, 100}) {
        BOOST_TEST_CONTEXT("chunk " << chunk << ", " << kept << " kept, " << threads << " threads") {
          options.cut = MemoryPlan{{chunk, chunk}, kept};
          begin_random_step(7, 3);
          const StepResult cached = cached_step(towers, model.loss(), options);
          BOOST_TEST((random_state() == after));
          BOOST_TEST(cached.loss.item() == direct.loss.item());
          check_same_bits(gradients_of(model.clip.parameters()), expected, model.clip.parameters());
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(blocks_of_another_size) {
  const SmallModel model(45);
  StepOptions options;
  options.reproducible_block = 8;
  std::vector<std::vector<Tensor>> by_block;
  for (const std::int64_t block : {1, 5, 16}) {
    options.reproducible_block = block;
    begin_random_step(7, 3);
    direct_step(model.towers(), model.loss(), options.direct());
    const std::vector<Tensor>& expected = by_block.emplace_back(gradients_of(model.clip.parameters()));
    for (const std::int64_t chunks : {1, 2, 3}) {
      BOOST_TEST_CONTEXT("chunk of " << chunks << " blocks of " << block) {
        options.cut = {chunks * block};
        begin_random_step(7, 3);
        cached_step(model.towers(), model.loss(), options);
        check_same_bits(gradients_of(model.clip.parameters()), expected, model.clip.parameters());
      }
    }
  }
  // The block is what decides the order.
  const auto same = [&](std::size_t a, std::size_t b) {
    return std::equal(by_block[a].begin(), by_block[a].end(), by_block[b].begin(), same_bits);
  };
  BOOST_TEST(!same(0, 1));
  BOOST_TEST(!same(1, 2));
}

BOOST_AUTO_TEST_CASE(a_budget_cuts_in_whole_blocks) {
  const SmallModel model(45);
  StepOptions options;
  options.reproducible_block = 10;
  options.cut = MemoryBudget{64 << 20};
  for (const std::int64_t size : plan_memory(model.towers(), options).chunk_sizes)
    BOOST_TEST((size % 10 == 0 || size == 45));
  {
    options.cut = {10};
    const std::size_t needed = cached_step(model.towers(), model.loss(), options).peak_bytes;
    gradients_of(model.clip.parameters());
    options.cut = MemoryBudget{needed + needed / 16};
  }
  const MemoryPlan tight = plan_memory(model.towers(), options);
  for (const std::int64_t size : tight.chunk_sizes) BOOST_TEST(size % 10 == 0);
  begin_random_step(7, 3);
  BOOST_TEST(cached_step(model.towers(), model.loss(), options).chunks > 2);
  const std::vector<Tensor> found = gradients_of(model.clip.parameters());
  begin_random_step(7, 3);
  direct_step(model.towers(), model.loss(), options.direct());
  check_same_bits(found, gradients_of(model.clip.parameters()), model.clip.parameters());
  // Not even a block: no smaller chunk is tried.
  options.reproducible_block = 40;
  BOOST_CHECK_THROW(cached_step(model.towers(), model.loss(), options), OutOfMemory);
}

BOOST_AUTO_TEST_CASE(chunk_sizes_of_their_own_a_tower) {
  const SmallModel model(40);
  StepOptions options{{8, 24}};
  options.reproducible_block = 8;
  const Comparison c = compare(model.towers(), model.loss(), options);
  BOOST_TEST(c.relative_norm == 0.0);
  BOOST_TEST(c.max_relative() == 0.0);
  BOOST_TEST(c.loss_reference == c.loss_other);
}

BOOST_AUTO_TEST_CASE(tied_weights_and_reused_layers) {
  // Each weight is read three times: twice within the encoder, and by both towers.
  const Parameter w("w", random_values({6, 6}, 1, DType::kFloat32)), b("b", random_values({6}, 2, DType::kFloat32));
  const auto encode = [&](const Tensor& x) {
    const Variable scaled = ops::scale(w, 1.5);
    return ops::l2_normalize(ops::tanh(ops::linear(ops::tanh(ops::linear(x, scaled, b)), ops::transpose(w, 0, 1), b)));
  };
  const std::vector<Tower> towers{{"a", random_values({50, 6}, 3, DType::kFloat32), encode},
                                  {"b", random_values({50, 6}, 4, DType::kFloat32), encode}};
  const Parameter scale("scale", Tensor::full({}, 1.0));
  const Loss loss = [&](std::span<const Variable> r) {
    return ops::add(clip_loss(r[0], r[1], {.scale = Scale::from_log(scale)}), info_nce(ops::linear(r[0], w), r[1]));
  };
  StepOptions options;
  options.reproducible_block = 8;
  for (std::int64_t chunk = 8; chunk <= 56; chunk += 8) {
    options.cut = {chunk};
    const Comparison c = compare(towers, loss, options);
    BOOST_TEST(c.parameters.size() == 3u);
    BOOST_TEST(c.max_relative() == 0.0);
  }
  // Without the option the order of the sums shows, or this test could not fail.
  options.reproducible_block = 0;
  options.cut = {8};
  BOOST_TEST(compare(towers, loss, options).max_relative() > 0.0);
}

BOOST_AUTO_TEST_CASE(accumulated_steps_stay_equal) {
  const SmallModel a(24), b(32);
  const SmallModel& model = a;
  const std::vector<Tower> second{
      {"image", b.images, [&](const Tensor& x) { return model.clip.encode_image(x); }},
      {"text", b.texts, [&](const models::TokenBatch& x) { return model.clip.encode_text(x); }}};
  const auto run = [&](auto&& step) {
    begin_random_step(1, 1);
    step(model.towers());
    begin_random_step(1, 2);
    step(second);
    return gradients_of(model.clip.parameters());
  };
  StepOptions options{{8}};
  options.reproducible_block = 8;
  options.scale = 0.5;
  const auto expected = run([&](std::span<const Tower> t) { direct_step(t, model.loss(), options.direct()); });
  const auto found = run([&](std::span<const Tower> t) { cached_step(t, model.loss(), options); });
  check_same_bits(found, expected, model.clip.parameters());
}

BOOST_AUTO_TEST_CASE(same_bits_for_any_thread_count) {
  const ClipSetup setup(40, DType::kFloat32, 0.2);
  std::vector<Tensor> expected;
  for (const int threads : {1, 2, 4}) {
    const Threads guard(threads);
    begin_random_step(2, 2);
    cached_step(setup.towers(), setup.loss(), {{16}});
    const std::vector<Tensor> found = gradients_of(setup.parameters());
    if (threads == 1) expected = found;
    check_same_bits(found, expected, setup.parameters());
  }
}

BOOST_AUTO_TEST_SUITE_END()
