#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "model_checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/allocator.h"
#include "tapecache/core/error.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/bert.h"
#include "tapecache/models/clip.h"
#include "tapecache/train/optimizer.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(model_training)

BOOST_AUTO_TEST_CASE(dropout_acts_in_training_alone) {
  Clip clip(small_clip(0.5), 41);
  const Clip without(small_clip(0), 41);
  const Tensor images = small_images(3, DType::kFloat32);
  const auto image = [&](const Clip& c, std::uint32_t step) {
    begin_random_step(1, step);
    return values_of([&] { return c.encode_image(images); });
  };
  const auto text = [&](const Clip& c, std::uint32_t step) {
    begin_random_step(1, step);
    return values_of([&] { return c.encode_text(sentences()); });
  };
  for (const auto& encode : {std::function<Tensor(const Clip&, std::uint32_t)>(image),
                             std::function<Tensor(const Clip&, std::uint32_t)>(text)}) {
    clip.set_training(true);
    const Tensor plain = encode(without, 1);
    BOOST_TEST(same_bits(encode(clip, 1), encode(clip, 1)));
    BOOST_TEST(max_difference(encode(clip, 1), encode(clip, 2)) > 1e-3);
    BOOST_TEST(max_difference(encode(clip, 1), plain) > 1e-3);
    BOOST_TEST(random_state().key.call == 4u);  // two layers of two dropouts
    clip.set_training(false);
    BOOST_TEST(same_bits(encode(clip, 1), plain));
    BOOST_TEST(same_bits(encode(clip, 2), plain));
    BOOST_TEST(random_state().key.call == 0u);
  }
}

BOOST_AUTO_TEST_CASE(copies_share_parameters_and_training_flag) {
  Clip clip(small_clip(0.5), 41);
  const Clip copy = clip;
  clip.set_training(false);
  begin_random_step(1, 1);
  values_of([&] { return copy.encode_text(sentences()); });
  BOOST_TEST(random_state().key.call == 0u);
  for (std::size_t i = 0; i < clip.parameters().size(); ++i) {
    BOOST_TEST((clip.parameters()[i] == copy.parameters()[i]));
  }
}

BOOST_AUTO_TEST_CASE(activation_checkpointing_gives_the_same_bits) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Clip plain(small_clip(0.3), 51, dtype), checkpointed(small_clip(0.3, true), 51, dtype);
    const Tensor images = small_images(5, dtype);
    const auto run = [&](const Clip& clip) {
      shake(clip.parameters(), 900);
      begin_random_step(6, 7);
      run_backward([&] { return clip.encode_image(images); }, 1);
      run_backward([&] { return clip.encode_text(sentences()); }, 2);
      return random_state();
    };
    BOOST_TEST((run(plain) == run(checkpointed)));
    for (std::size_t i = 0; i + 1 < plain.parameters().size(); ++i) {  // the last is the loss's logit_scale
      const Parameter &a = plain.parameters()[i], &b = checkpointed.parameters()[i];
      BOOST_REQUIRE_MESSAGE(a.gradient().defined() && b.gradient().defined(), a.name());
      BOOST_TEST(same_bits(a.gradient(), b.gradient()), a.name());
    }
  }
}

/// Text towers whose gradients hang on the mask and on dropout, with checkpoints and without.
std::vector<std::function<Variable(const TokenBatch&)>> text_towers(const Builder& builder, bool checkpoint) {
  TextConfig text = small_text();
  BertConfig bert{.vocabulary = 11, .max_tokens = 6, .encoder = {.width = 8, .layers = 2, .heads = 2, .mlp_width = 12}};
  text.encoder.dropout = bert.encoder.dropout = 0.3;
  text.encoder.drop_path = bert.encoder.drop_path = 0.2;
  text.encoder.checkpoint = bert.encoder.checkpoint = checkpoint;
  return {TextTransformer(builder.child("text"), text), Bert(builder.child("bert"), bert)};
}

BOOST_AUTO_TEST_CASE(a_checkpointed_block_notices_that_its_mask_was_changed) {
  for (const bool checkpoint : {false, true}) {
    for (const auto& tower : text_towers(Builder(7), checkpoint)) {
      const TokenBatch tokens = sentences();
      Tape tape;
      Variable y;
      {
        const Recording recording(tape);
        y = tower(tokens);
      }
      Tensor(tokens.valid).fill(1);
      const Tensor seed = Tensor::full(y.shape(), 1);
      BOOST_CHECK_EXCEPTION(inject(tape, std::span(&y, 1), std::span(&seed, 1)), TapeError,
                            says({"changed after the forward"}));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_checkpointed_block_is_repeated_under_the_training_flag_of_its_forward) {
  for (const bool training : {false, true}) {
    std::vector<Tensor> gradients[2];
    for (const bool checkpoint : {false, true}) {
      const Builder builder(7);
      for (const auto& tower : text_towers(builder, checkpoint)) {
        builder.set_training(training);
        begin_random_step(3, 4);
        run_backward([&] {
          const Variable y = tower(sentences());
          builder.set_training(!training);
          return y;
        });
      }
      for (const Parameter& p : builder.parameters()) gradients[checkpoint].push_back(p.gradient());
    }
    for (std::size_t i = 0; i < gradients[0].size(); ++i) BOOST_TEST(same_bits(gradients[0][i], gradients[1][i]));
  }
}

BOOST_AUTO_TEST_CASE(activation_checkpointing_keeps_less) {
  const auto kept = [](bool checkpoint) {
    const Clip clip(small_clip(0.3, checkpoint), 51);
    const auto is_weight = [&](const Tensor& t) {
      return std::ranges::any_of(clip.parameters(), [&](const Parameter& p) { return p.value().shares_storage(t); });
    };
    Tape tape;
    {
      const Recording recording(tape);
      clip.encode_image(small_images(5, DType::kFloat32));
    }
    std::size_t bytes = 0;
    for (const auto& node : tape.nodes()) {
      for (const Tensor& t : node.saved) bytes += t.defined() && !is_weight(t) ? t.bytes() : 0;
    }
    return bytes;
  };
  BOOST_TEST(2 * kept(true) < kept(false));
}

BOOST_AUTO_TEST_CASE(a_steady_state_asks_the_system_for_no_tensor_memory) {
  const Clip clip(small_clip(0.2), 61);
  train::AdamW optimizer(clip.parameters());
  const std::vector<gradcache::Tower> towers{
      {"image", small_images(5, DType::kFloat32), [&](const Tensor& images) { return clip.encode_image(images); }},
      {"text", sentences(), [&](const TokenBatch& tokens) { return clip.encode_text(tokens); }}};
  const gradcache::Loss loss = [&](auto r) {
    return losses::clip_loss(r[0], r[1], {.scale = losses::Scale::from_log(clip.logit_scale())});
  };
  for (const bool cached : {false, true}) {
    const auto step = [&] {
      if (cached) gradcache::cached_step(towers, loss, {{2}});
      else gradcache::direct_step(towers, loss);
      optimizer.step(1e-3);
      optimizer.clear_gradients();
    };
    step();
    step();
    const Device::MemoryStats before = allocator().stats();
    // Together far more than a segment.
    for (int i = 0; i < 1000; ++i) step();
    const Device::MemoryStats after = allocator().stats();
    BOOST_TEST(after.system_allocations == before.system_allocations, (cached ? "cached" : "direct"));
    BOOST_TEST(after.current == before.current, (cached ? "cached" : "direct"));
  }
}

BOOST_AUTO_TEST_SUITE_END()
