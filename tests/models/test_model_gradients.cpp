#include <span>
#include <vector>

#include "model_gradient_checks.h"
#include "tapecache/core/random.h"
#include "tapecache/losses/losses.h"
#include "tapecache/models/clip.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

BOOST_AUTO_TEST_SUITE(model_gradients)

BOOST_AUTO_TEST_CASE(gradients_of_a_transformer_block) {
  const TokenBatch padded = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 1, 1}, {1}, {1, 1, 1, 1}});
  for (const ops::Activation activation :
       {ops::Activation::kQuickGelu, ops::Activation::kGelu, ops::Activation::kGeluTanh, ops::Activation::kSilu}) {
    for (const bool masked : {false, true}) {
      const Builder builder(3, DType::kFloat64);
      const TransformerBlock block(
          builder, {.width = 8, .layers = 1, .heads = 2, .mlp_width = 12, .activation = activation, .dropout = 0.2});
      shake(builder.parameters(), 100);
      const Parameter x("x", random_values({3, 4, 8}, 8));
      std::vector<Parameter> parameters = builder.parameters();
      parameters.push_back(x);
      const Forward forward = [&] {
        begin_random_step(1, 2);
        return block(x, {.causal = masked, .valid = masked ? padded.valid : Tensor()});
      };
      BOOST_TEST_CONTEXT("activation " << static_cast<int>(activation) << (masked ? ", masked" : "")) {
        BOOST_TEST(parameters.size() == 17u);
        check_gradients(forward, parameters);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_a_block_with_scales_and_a_gate) {
  for (const BlockStyle::Norm norm : {BlockStyle::Norm::kPre, BlockStyle::Norm::kPost}) {
    for (const double dropout : {0.0, 0.2}) {
      const Builder builder(3, DType::kFloat64);
      const BlockStyle style{
          .norm = norm, .in_bias = false, .scale1 = "scale1.lambda1", .scale2 = "scale2.lambda1", .gated = true};
      const TransformerBlock block(builder,
                                   {.width = 8,
                                    .layers = 1,
                                    .heads = 2,
                                    .mlp_width = 12,
                                    .activation = ops::Activation::kSilu,
                                    .dropout = dropout},
                                   style);
      shake(builder.parameters(), 100);
      const Parameter x("x", random_values({3, 4, 8}, 8));
      std::vector<Parameter> parameters = builder.parameters();
      parameters.push_back(x);
      BOOST_TEST_CONTEXT((norm == BlockStyle::Norm::kPre ? "pre" : "post") << ", dropout " << dropout) {
        BOOST_TEST(parameters.size() == 16u);
        check_gradients([&] { return begin_random_step(1, 2), block(x); }, parameters);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_a_vision_transformer) {
  for (const VisionConfig::Pooling pooling : {VisionConfig::Pooling::kCls, VisionConfig::Pooling::kMean}) {
    for (const double dropout : {0.0, 0.25}) {
      VisionConfig config = small_vision();
      config.pooling = pooling;
      config.encoder.dropout = dropout;
      const Builder builder(4, DType::kFloat64);
      const VisionTransformer vision(builder, config);
      shake(builder.parameters(), 200);
      const Tensor images = small_images(2);
      BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << ", dropout " << dropout) {
        check_gradients([&] { return begin_random_step(1, 2), vision(images); }, builder.parameters());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_siglips_vision_transformer) {
  for (const VisionConfig::Pooling pooling : {VisionConfig::Pooling::kAttention, VisionConfig::Pooling::kMean}) {
    VisionConfig config = small_vision();
    config.pooling = pooling;
    config.class_token = config.pre_norm = false;
    config.patch_bias = true;
    config.encoder.activation = ops::Activation::kGeluTanh;
    const Builder builder(4, DType::kFloat64);
    const VisionTransformer vision(builder, config);
    shake(builder.parameters(), 250);
    const Tensor images = small_images(2);
    BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling)) {
      check_gradients([&] { return vision(images); }, builder.parameters());
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_a_text_transformer_that_attends_to_padding) {
  TextConfig config = small_text();
  config.pooling = TextConfig::Pooling::kLastToken;
  config.causal = false;
  config.padding = 2;
  config.max_tokens = 10;  // more than the longest text has
  const Builder builder(5, DType::kFloat64);
  const TextTransformer text(builder, config);
  shake(builder.parameters(), 350);
  check_gradients([&] { return text(sentences()); }, builder.parameters());
}

BOOST_AUTO_TEST_CASE(gradients_of_a_text_transformer) {
  for (const TextConfig::Pooling pooling : {TextConfig::Pooling::kLastToken, TextConfig::Pooling::kMean}) {
    for (const bool causal : {true, false}) {
      TextConfig config = small_text();
      config.pooling = pooling;
      config.causal = causal;
      config.encoder.dropout = causal ? 0.25 : 0.0;
      const Builder builder(5, DType::kFloat64);
      const TextTransformer text(builder, config);
      shake(builder.parameters(), 300);
      const TokenBatch tokens = sentences();
      BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << (causal ? ", causal" : "")) {
        check_gradients([&] { return begin_random_step(1, 2), text(tokens); }, builder.parameters());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(gradients_of_both_towers_with_their_loss) {
  const Clip clip(small_clip(0.1), 6, DType::kFloat64);
  shake(clip.parameters(), 400);
  Parameter(clip.logit_scale()).mutable_value().fill(1.3);
  const Tensor images = small_images(5);
  const TokenBatch tokens = sentences();
  check_gradients(
      [&] {
        begin_random_step(1, 2);
        const Variable image = clip.encode_image(images);
        return losses::clip_loss(image, clip.encode_text(tokens),
                                 {.scale = losses::Scale::from_log(clip.logit_scale())});
      },
      clip.parameters());
}

BOOST_AUTO_TEST_SUITE_END()
