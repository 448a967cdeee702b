#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "naive_transformer.h"
#include "tapecache/models/clip.h"
#include "tapecache/ops/layout.h"
#include "tapecache/ops/reduce.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

/// CLIP's towers for one sample, written out over weights by their Hugging Face names.
class NaiveClip : public NaiveTransformer {
 public:
  NaiveClip(std::span<const Parameter> parameters, const ClipConfig& config)
      : NaiveTransformer(parameters), config_(config) {}

  /// image [channels, size, size]
  std::vector<double> image(const std::vector<double>& image) const {
    const VisionConfig& c = config_.vision;
    const TransformerConfig encoder_config(c.encoder);
    const std::int64_t side = c.image_size / c.patch_size, patch = c.patch_size, width = c.encoder.width;
    const std::string embeddings = "vision_model.embeddings.";
    Rows x{at(embeddings + "class_embedding")};
    for (std::int64_t token = 0; token < side * side; ++token) {
      std::vector<double> row(static_cast<std::size_t>(width), 0.0);
      for (std::int64_t o = 0, k = 0; o < width; ++o) {
        for (std::int64_t channel = 0; channel < c.channels; ++channel) {
          for (std::int64_t i = 0; i < patch; ++i) {
            for (std::int64_t j = 0; j < patch; ++j, ++k) {
              const std::int64_t y = token / side * patch + i, column = token % side * patch + j;
              row[static_cast<std::size_t>(o)] +=
                  at(embeddings + "patch_embedding.weight")[static_cast<std::size_t>(k)] *
                  image[static_cast<std::size_t>((channel * c.image_size + y) * c.image_size + column)];
            }
          }
        }
      }
      x.push_back(row);
    }
    add_positions(x, embeddings + "position_embedding.weight");
    x = encoder(norm(x, "vision_model.pre_layrnorm", encoder_config), "vision_model.encoder.", encoder_config, false);
    if (c.pooling == VisionConfig::Pooling::kMean) x.erase(x.begin());
    else x.resize(1);
    return projected(norm({mean(x)}, "vision_model.post_layernorm", encoder_config), "visual_projection");
  }

  std::vector<double> text(const std::vector<std::int32_t>& ids) const {
    const TextConfig& c = config_.text;
    const std::string embeddings = "text_model.embeddings.";
    Rows x = rows(embeddings + "token_embedding.weight", ids, c.encoder.width);
    add_positions(x, embeddings + "position_embedding.weight");
    x = norm(encoder(x, "text_model.encoder.", c.encoder, c.causal), "text_model.final_layer_norm", c.encoder);
    return projected({c.pooling == TextConfig::Pooling::kMean ? mean(x) : x.back()}, "text_projection");
  }

 private:
  Rows encoder(Rows x, const std::string& name, const TransformerConfig& c, bool causal) const {
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      const std::string block = name + "layers." + std::to_string(layer) + ".";
      add(x, attention(norm(x, block + "layer_norm1", c), block + "self_attn.", c, causal));
      Rows hidden = linear(norm(x, block + "layer_norm2", c), block + "mlp.fc1");
      for (auto& row : hidden) {
        for (double& v : row) v /= 1 + std::exp(-1.702 * v);
      }
      add(x, linear(hidden, block + "mlp.fc2"));
    }
    return x;
  }

  std::vector<double> projected(const Rows& x, const std::string& name) const {
    std::vector<double> y = linear(x, name).front();
    double squares = 0;
    for (const double v : y) squares += v * v;
    for (double& v : y) v /= std::sqrt(squares);
    return y;
  }

  ClipConfig config_;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(model_values)

BOOST_AUTO_TEST_CASE(towers_compute_what_clip_computes) {
  for (const VisionConfig::Pooling vision : {VisionConfig::Pooling::kCls, VisionConfig::Pooling::kMean}) {
    for (const TextConfig::Pooling text : {TextConfig::Pooling::kLastToken, TextConfig::Pooling::kMean}) {
      for (const bool causal : {true, false}) {
        ClipConfig config = small_clip();
        config.vision.pooling = vision;
        config.text.pooling = text;
        config.text.causal = causal;
        config.vision.encoder.epsilon = 1e-3;  // so that it shows where it goes
        const Clip clip(config, 9, DType::kFloat64);
        shake(clip.parameters(), 900);
        const NaiveClip naive(clip.parameters(), config);
        const Tensor images = small_images(3);
        const Tensor image = values_of([&] { return clip.encode_image(images); });
        const Tensor words = values_of([&] { return clip.encode_text(sentences()); });
        BOOST_TEST_CONTEXT("pooling " << static_cast<int>(vision) << " and " << static_cast<int>(text)
                                      << (causal ? ", causal" : "")) {
          for (std::int64_t i = 0; i < 3; ++i) {
            const std::vector<double> expected = naive.image(doubles(images.slice(i, i + 1)));
            BOOST_TEST(max_difference(doubles(image.slice(i, i + 1)), expected) <= 1e-12);
          }
          for (std::size_t i = 0; i < kSentences.size(); ++i) {
            const auto row = static_cast<std::int64_t>(i);
            BOOST_TEST(max_difference(doubles(words.slice(row, row + 1)), naive.text(kSentences[i])) <= 1e-12);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(hidden_states_are_what_is_pooled) {
  ClipConfig config = small_clip();
  config.text.pooling = TextConfig::Pooling::kMean;
  config.vision.pooling = VisionConfig::Pooling::kMean;
  const Clip clip(config, 9, DType::kFloat64);
  shake(clip.parameters(), 900);
  const TokenBatch words = sentences();
  const Tensor text = values_of([&] { return clip.text().hidden_states(words); });
  BOOST_TEST((text.shape() == Shape{5, 5, 12}));
  BOOST_TEST(same_bits(values_of([&] { return ops::mean_pool(text, words.valid); }),
                       values_of([&] { return clip.text()(words); })));
  const Tensor image = values_of([&] { return clip.vision().hidden_states(small_images(3)); });
  BOOST_TEST((image.shape() == Shape{3, 5, 8}));
  const LayerNorm norm(Builder(1, DType::kFloat64), 8);
  Parameter(norm.weight).assign(named(clip.parameters(), "vision_model.post_layernorm.weight").value());
  Parameter(norm.bias).assign(named(clip.parameters(), "vision_model.post_layernorm.bias").value());
  BOOST_TEST(same_bits(values_of([&] { return norm(ops::mean_pool(ops::slice(image, 1, 1, 5))); }),
                       values_of([&] { return clip.vision()(small_images(3)); })));
}

BOOST_AUTO_TEST_SUITE_END()
