#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model_checks.h"
#include "tapecache/models/clip.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

using Rows = std::vector<std::vector<double>>;

/// CLIP's towers for one sample, written out over weights by their Hugging Face names.
class NaiveClip {
 public:
  NaiveClip(std::span<const Parameter> parameters, const ClipConfig& config) : config_(config) {
    for (const Parameter& p : parameters) weights_[p.name()] = doubles(p.value());
  }

  /// image [channels, size, size]
  std::vector<double> image(const std::vector<double>& image) const {
    const VisionConfig& c = config_.vision;
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
    add_positions(x, embeddings);
    x = encoder(norm(x, "vision_model.pre_layrnorm", c.encoder), "vision_model.encoder.", c.encoder, false);
    if (c.pooling == VisionPooling::kMean) x.erase(x.begin());
    else x.resize(1);
    return projected(norm({mean(x)}, "vision_model.post_layernorm", c.encoder), "visual_projection");
  }

  std::vector<double> text(const std::vector<std::int32_t>& ids) const {
    const TextConfig& c = config_.text;
    const auto width = static_cast<std::size_t>(c.encoder.width);
    const std::string embeddings = "text_model.embeddings.";
    Rows x;
    for (const std::int32_t id : ids) {
      const double* row = at(embeddings + "token_embedding.weight").data() + static_cast<std::size_t>(id) * width;
      x.emplace_back(row, row + width);
    }
    add_positions(x, embeddings);
    x = norm(encoder(x, "text_model.encoder.", c.encoder, c.causal), "text_model.final_layer_norm", c.encoder);
    return projected({c.pooling == TextPooling::kMean ? mean(x) : x.back()}, "text_projection");
  }

 private:
  const std::vector<double>& at(const std::string& name) const { return weights_.at(name); }

  static std::vector<double> mean(const Rows& x) {
    std::vector<double> result(x.front().size(), 0.0);
    for (const auto& row : x) {
      for (std::size_t j = 0; j < row.size(); ++j) result[j] += row[j] / static_cast<double>(x.size());
    }
    return result;
  }

  void add_positions(Rows& x, const std::string& embeddings) const {
    std::size_t k = 0;
    for (auto& row : x) {
      for (double& v : row) v += at(embeddings + "position_embedding.weight")[k++];
    }
  }

  Rows linear(const Rows& x, const std::string& name) const {
    const std::vector<double>& weight = at(name + ".weight");
    const std::size_t in = x.front().size(), out = weight.size() / in;
    const auto bias = weights_.find(name + ".bias");
    Rows y;
    for (const auto& row : x) {
      y.push_back(bias == weights_.end() ? std::vector<double>(out, 0.0) : bias->second);
      for (std::size_t o = 0; o < out; ++o) {
        for (std::size_t i = 0; i < in; ++i) y.back()[o] += weight[o * in + i] * row[i];
      }
    }
    return y;
  }

  Rows norm(Rows x, const std::string& name, const TransformerConfig& c) const {
    for (auto& row : x) {
      const auto n = static_cast<double>(row.size());
      double mean = 0, variance = 0;
      for (const double v : row) mean += v / n;
      for (const double v : row) variance += (v - mean) * (v - mean) / n;
      for (std::size_t j = 0; j < row.size(); ++j) {
        row[j] = (row[j] - mean) / std::sqrt(variance + c.epsilon) * at(name + ".weight")[j] + at(name + ".bias")[j];
      }
    }
    return x;
  }

  Rows attention(const Rows& x, const std::string& name, const TransformerConfig& c, bool causal) const {
    const Rows q = linear(x, name + "q_proj"), k = linear(x, name + "k_proj"), v = linear(x, name + "v_proj");
    const auto width = static_cast<std::size_t>(c.width), head = width / static_cast<std::size_t>(c.heads);
    Rows y(x.size(), std::vector<double>(width, 0.0));
    for (std::size_t first = 0; first < width; first += head) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t seen = causal ? i + 1 : x.size();
        std::vector<double> weights(seen, 0.0);
        double sum = 0;
        for (std::size_t j = 0; j < seen; ++j) {
          for (std::size_t d = first; d < first + head; ++d) weights[j] += q[i][d] * k[j][d];
          sum += weights[j] = std::exp(weights[j] / std::sqrt(static_cast<double>(head)));
        }
        for (std::size_t j = 0; j < seen; ++j) {
          for (std::size_t d = first; d < first + head; ++d) y[i][d] += weights[j] / sum * v[j][d];
        }
      }
    }
    return linear(y, name + "out_proj");
  }

  Rows encoder(Rows x, const std::string& name, const TransformerConfig& c, bool causal) const {
    const auto add = [&](const Rows& more) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        for (std::size_t j = 0; j < x[i].size(); ++j) x[i][j] += more[i][j];
      }
    };
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      const std::string block = name + "layers." + std::to_string(layer) + ".";
      add(attention(norm(x, block + "layer_norm1", c), block + "self_attn.", c, causal));
      Rows hidden = linear(norm(x, block + "layer_norm2", c), block + "mlp.fc1");
      for (auto& row : hidden) {
        for (double& v : row) v /= 1 + std::exp(-1.702 * v);
      }
      add(linear(hidden, block + "mlp.fc2"));
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
  std::map<std::string, std::vector<double>> weights_;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(model_values)

BOOST_AUTO_TEST_CASE(towers_compute_what_clip_computes) {
  for (const VisionPooling vision : {VisionPooling::kCls, VisionPooling::kMean}) {
    for (const TextPooling text : {TextPooling::kLastToken, TextPooling::kMean}) {
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

BOOST_AUTO_TEST_SUITE_END()
