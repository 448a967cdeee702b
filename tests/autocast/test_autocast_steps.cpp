#include <span>
#include <vector>

#include "checks.h"
#include "small_model.h"
#include "tapecache/autograd/modes.h"
#include "tapecache/core/parallel_for.h"
#include "tapecache/models/transformer_block.h"
#include "tapecache/ops/reduce.h"

// Whole steps under autocast.

using namespace tapecache;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(autocast)

BOOST_AUTO_TEST_CASE(cached_steps_encode_twice_in_one_precision) {
  for (const DType low : {DType::kBFloat16, DType::kFloat16}) {
    SmallModel model(40);
    gradcache::StepOptions options{{8}};
    options.autocast = low;
    options.check_recompute = true;
    options.reproducible_block = 8;
    BOOST_TEST(gradcache::compare(model.towers(), model.loss(), options).relative_norm == 0.0);
    // Beside f32 it is near, and not the same.
    const auto step = [&](DType autocast) {
      return [&, autocast] {
        gradcache::StepOptions own = options;
        own.autocast = autocast;
        return gradcache::cached_step(model.towers(), model.loss(), own);
      };
    };
    const gradcache::Comparison c = gradcache::compare_steps(step(DType::kFloat32), step(low), model.clip.parameters());
    BOOST_TEST(c.relative_norm > 1e-5);
    BOOST_TEST(c.relative_norm < 0.1);
    // The loss runs in f32, and its result too.
    DType in_loss = DType::kBool;
    const gradcache::Loss loss = [&](std::span<const Variable> r) {
      in_loss = Autocast::current();
      for (const Variable& v : r) BOOST_TEST(v.dtype() == DType::kFloat32);
      return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(model.clip.logit_scale())});
    };
    gradcache::cached_step(model.towers(), loss, options);
    BOOST_TEST(in_loss == DType::kFloat32);
  }
}

BOOST_AUTO_TEST_CASE(the_same_bits_for_any_number_of_threads) {
  SmallModel model(16);
  const auto gradients = [&](int threads) {
    set_thread_count(threads);
    gradcache::StepOptions options{{8}};
    options.autocast = DType::kBFloat16;
    for (Parameter p : model.clip.parameters()) p.clear_gradient();
    begin_random_step(1, 1);
    gradcache::cached_step(model.towers(), model.loss(), options);
    std::vector<Tensor> all;
    for (const Parameter& p : model.clip.parameters()) all.push_back(p.gradient());
    return all;
  };
  const int before = thread_count();
  const auto expected = gradients(1);
  for (const int threads : {2, 4}) {
    const auto found = gradients(threads);
    for (std::size_t i = 0; i < found.size(); ++i) BOOST_TEST(same_bits(found[i], expected[i]));
  }
  set_thread_count(before);
}

BOOST_AUTO_TEST_CASE(the_type_of_a_blocks_attention_is_its_own_choice) {
  for (const bool checkpoint : {false, true}) {
    const models::TransformerBlock block(
        models::Builder(1), {.width = 8, .layers = 1, .heads = 2, .mlp_width = 8, .checkpoint = checkpoint});
    const Tensor x = random_values({3, 4, 8}, 1, DType::kFloat32);
    const Autocast on(DType::kBFloat16);
    const models::TransformerEncoder::TokenChoice cls = [](const Variable& tokens) { return ops::cls_pool(tokens); };
    for (const models::TransformerEncoder::TokenChoice& choice : {models::TransformerEncoder::TokenChoice(), cls}) {
      const Variable computed = block(x, {}, choice);
      BOOST_TEST(same_bits(block(x, {.result = ops::ResultType::kOperand}, choice).value(), computed.value()));
      BOOST_TEST(computed.dtype() == DType::kFloat32);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
