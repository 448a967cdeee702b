#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/error.h"
#include "tapecache/core/philox.h"
#include "tapecache/core/random.h"
#include "tapecache/core/safetensors.h"
#include "tapecache/gradcache/compare.h"
#include "tapecache/gradcache/losses.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/models/clip.h"
#include "tapecache/models/weights.h"

using namespace tapecache;
using namespace tapecache::models;
using namespace tapecache::testing;

namespace {

/// Uniform in [-1, 1), a function of the seed alone.
Tensor random_values(const Shape& shape, std::uint64_t seed, DType dtype = DType::kFloat64) {
  Tensor t = Tensor::empty(shape, DType::kFloat64);
  double* p = t.mutable_data<double>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    p[i] = 2.0 * static_cast<double>(uniform(RandomKey{seed, 77}.draw(0, static_cast<std::uint32_t>(i))[0])) - 1.0;
  }
  return t.to(dtype);
}

/// Moves every parameter by up to 0.4, so that no bias is 0, no norm is the identity and no derivative is tiny.
void shake(std::span<const Parameter> parameters, std::uint64_t seed) {
  for (Parameter p : parameters) {
    const std::vector<double> move = doubles(random_values(p.value().shape(), ++seed));
    std::vector<double> values = doubles(p.value());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += 0.4 * move[i];
    p.assign(Tensor::from(values, p.value().shape()).to(p.value().dtype()));
  }
}

void clear_gradients(std::span<const Parameter> parameters) {
  for (Parameter p : parameters) p.clear_gradient();
}

using Forward = std::function<Variable()>;

Tensor values_of(const Forward& forward) {
  const NoRecording off;
  return forward().value();
}

/// <c, f> for the given cotangent.
double projected(const Forward& forward, const std::vector<double>& cotangent) {
  const std::vector<double> y = doubles(values_of(forward));
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * cotangent[i];
  return sum;
}

/// Leaves in the parameters the gradient of <c, f> for a cotangent drawn from `seed`, and gives that cotangent.
std::vector<double> run_backward(const Forward& forward, std::uint64_t seed = 5) {
  Tape tape;
  Variable y;
  {
    const Recording recording(tape);
    y = forward();
  }
  const Tensor cotangent = random_values(y.shape(), seed, y.dtype());
  inject(tape, std::span(&y, 1), std::span(&cotangent, 1));
  return doubles(cotangent);
}

/// The derivative along one element by central differences, in f64.
double central_difference(const Forward& forward, const std::vector<double>& cotangent, Parameter parameter,
                          std::int64_t element, double step = 1e-5) {
  const double value = parameter.value().data<double>()[element];
  parameter.mutable_value().mutable_data<double>()[element] = value + step;
  const double above = projected(forward, cotangent);
  parameter.mutable_value().mutable_data<double>()[element] = value - step;
  const double below = projected(forward, cotangent);
  parameter.mutable_value().mutable_data<double>()[element] = value;
  return (above - below) / (2 * step);
}

/// The element of the largest gradient, and a few others.
std::vector<std::int64_t> elements_to_check(const std::vector<double>& gradient, std::uint64_t seed) {
  const auto larger = [](double a, double b) { return std::abs(a) < std::abs(b); };
  std::vector<std::int64_t> elements{std::max_element(gradient.begin(), gradient.end(), larger) - gradient.begin()};
  const auto word = RandomKey{seed}.draw(1, 2);
  for (std::size_t i = 0; i < 3; ++i) elements.push_back(static_cast<std::int64_t>(word[i] % gradient.size()));
  return elements;
}

/// Every parameter has a gradient, and it is the one that central differences give.
void check_gradients(const Forward& forward, std::span<const Parameter> parameters) {
  BOOST_REQUIRE(!parameters.empty());
  clear_gradients(parameters);
  const std::vector<double> cotangent = run_backward(forward);
  std::uint64_t seed = 0;
  for (const Parameter& p : parameters) {
    BOOST_TEST_CONTEXT(p.name()) {
      BOOST_REQUIRE(p.gradient().defined());
      BOOST_TEST((p.gradient().shape() == p.value().shape()));
      const std::vector<double> gradient = doubles(p.gradient());
      // A shift of all keys moves no softmax, so that this one gradient is 0.
      const bool vanishes = p.name().ends_with("k_proj.bias");
      const double largest = std::abs(gradient[static_cast<std::size_t>(elements_to_check(gradient, 0).front())]);
      BOOST_TEST((vanishes ? largest <= 1e-12 : largest > 1e-6), "largest gradient " << largest);
      for (const std::int64_t element : elements_to_check(gradient, ++seed)) {
        const double found = gradient[static_cast<std::size_t>(element)];
        const double expected = central_difference(forward, cotangent, p, element);
        BOOST_TEST(std::abs(found - expected) <= 1e-8 + 2e-7 * std::abs(expected),
                   "element " << element << ": " << found << ", by differences " << expected);
      }
    }
  }
}

VisionConfig small_vision() {
  return {.image_size = 8,
          .patch_size = 4,
          .channels = 3,
          .pooling = VisionPooling::kCls,
          .encoder = {.width = 8, .layers = 2, .heads = 2, .mlp_width = 16}};
}

TextConfig small_text() {
  return {.vocabulary = 11,
          .max_tokens = 6,
          .causal = true,
          .pooling = TextPooling::kLastToken,
          .encoder = {.width = 12, .layers = 2, .heads = 3, .mlp_width = 20}};
}

ClipConfig small_clip(double dropout = 0, bool checkpoint = false) {
  ClipConfig config{.vision = small_vision(), .text = small_text(), .projection_width = 5};
  for (TransformerConfig* encoder : {&config.vision.encoder, &config.text.encoder}) {
    encoder->dropout = dropout;
    encoder->checkpoint = checkpoint;
  }
  return config;
}

const std::vector<std::vector<std::int32_t>> kSentences{{1, 4, 2}, {3}, {5, 6, 7, 8, 9}, {10, 0}, {2, 2, 1, 7}};

TokenBatch sentences() { return TokenBatch::pad(kSentences); }

Tensor small_images(std::int64_t count, DType dtype = DType::kFloat64) {
  return random_values({count, 3, 8, 8}, 41, dtype);
}

std::map<std::string, Tensor> values_by_name(std::span<const Parameter> parameters) {
  std::map<std::string, Tensor> values;
  for (const Parameter& p : parameters) values.emplace(p.name(), p.value().clone());
  return values;
}

bool same_values(std::span<const Parameter> parameters, const std::map<std::string, Tensor>& values) {
  return parameters.size() == values.size() && std::all_of(parameters.begin(), parameters.end(), [&](const auto& p) {
           return values.contains(p.name()) && same_bits(p.value(), values.at(p.name()));
         });
}

const Parameter& named(std::span<const Parameter> parameters, const std::string& name) {
  const auto found =
      std::find_if(parameters.begin(), parameters.end(), [&](const auto& p) { return p.name() == name; });
  BOOST_REQUIRE_MESSAGE(found != parameters.end(), "no parameter is named " << name);
  return *found;
}

/// A folder of its own, removed with all it holds.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("tapecache_models_" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(models)

// --- derivatives ----------------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(gradients_of_a_transformer_block) {
  const TokenBatch padded = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 1, 1}, {1}, {1, 1, 1, 1}});
  for (const Activation activation : {Activation::kQuickGelu, Activation::kGelu, Activation::kGeluTanh,
                                      Activation::kSilu}) {
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

BOOST_AUTO_TEST_CASE(gradients_of_a_vision_transformer) {
  for (const VisionPooling pooling : {VisionPooling::kCls, VisionPooling::kMean}) {
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

BOOST_AUTO_TEST_CASE(gradients_of_a_text_transformer) {
  for (const TextPooling pooling : {TextPooling::kLastToken, TextPooling::kMean}) {
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
        return gradcache::clip_loss(image, clip.encode_text(tokens), clip.logit_scale());
      },
      clip.parameters());
}

// --- values ---------------------------------------------------------------------------------------------------------

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

// --- names ----------------------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(parameters_are_named_as_in_hugging_face_checkpoints) {
  // CLIPModel.state_dict() of transformers, for vision width 8, text width 12 and a projection of 5.
  const std::map<std::string, Shape> expected{
      {"logit_scale", {}},
      {"text_model.embeddings.token_embedding.weight", {11, 12}},
      {"text_model.embeddings.position_embedding.weight", {6, 12}},
      {"text_model.encoder.layers.0.self_attn.k_proj.weight", {12, 12}},
      {"text_model.encoder.layers.0.self_attn.k_proj.bias", {12}},
      {"text_model.encoder.layers.0.self_attn.v_proj.weight", {12, 12}},
      {"text_model.encoder.layers.0.self_attn.v_proj.bias", {12}},
      {"text_model.encoder.layers.0.self_attn.q_proj.weight", {12, 12}},
      {"text_model.encoder.layers.0.self_attn.q_proj.bias", {12}},
      {"text_model.encoder.layers.0.self_attn.out_proj.weight", {12, 12}},
      {"text_model.encoder.layers.0.self_attn.out_proj.bias", {12}},
      {"text_model.encoder.layers.0.layer_norm1.weight", {12}},
      {"text_model.encoder.layers.0.layer_norm1.bias", {12}},
      {"text_model.encoder.layers.0.mlp.fc1.weight", {20, 12}},
      {"text_model.encoder.layers.0.mlp.fc1.bias", {20}},
      {"text_model.encoder.layers.0.mlp.fc2.weight", {12, 20}},
      {"text_model.encoder.layers.0.mlp.fc2.bias", {12}},
      {"text_model.encoder.layers.0.layer_norm2.weight", {12}},
      {"text_model.encoder.layers.0.layer_norm2.bias", {12}},
      {"text_model.encoder.layers.1.self_attn.k_proj.weight", {12, 12}},
      {"text_model.encoder.layers.1.self_attn.k_proj.bias", {12}},
      {"text_model.encoder.layers.1.self_attn.v_proj.weight", {12, 12}},
      {"text_model.encoder.layers.1.self_attn.v_proj.bias", {12}},
      {"text_model.encoder.layers.1.self_attn.q_proj.weight", {12, 12}},
      {"text_model.encoder.layers.1.self_attn.q_proj.bias", {12}},
      {"text_model.encoder.layers.1.self_attn.out_proj.weight", {12, 12}},
      {"text_model.encoder.layers.1.self_attn.out_proj.bias", {12}},
      {"text_model.encoder.layers.1.layer_norm1.weight", {12}},
      {"text_model.encoder.layers.1.layer_norm1.bias", {12}},
      {"text_model.encoder.layers.1.mlp.fc1.weight", {20, 12}},
      {"text_model.encoder.layers.1.mlp.fc1.bias", {20}},
      {"text_model.encoder.layers.1.mlp.fc2.weight", {12, 20}},
      {"text_model.encoder.layers.1.mlp.fc2.bias", {12}},
      {"text_model.encoder.layers.1.layer_norm2.weight", {12}},
      {"text_model.encoder.layers.1.layer_norm2.bias", {12}},
      {"text_model.final_layer_norm.weight", {12}},
      {"text_model.final_layer_norm.bias", {12}},
      {"vision_model.embeddings.class_embedding", {8}},
      {"vision_model.embeddings.patch_embedding.weight", {8, 3, 4, 4}},
      {"vision_model.embeddings.position_embedding.weight", {5, 8}},
      {"vision_model.pre_layrnorm.weight", {8}},
      {"vision_model.pre_layrnorm.bias", {8}},
      {"vision_model.encoder.layers.0.self_attn.k_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.0.self_attn.k_proj.bias", {8}},
      {"vision_model.encoder.layers.0.self_attn.v_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.0.self_attn.v_proj.bias", {8}},
      {"vision_model.encoder.layers.0.self_attn.q_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.0.self_attn.q_proj.bias", {8}},
      {"vision_model.encoder.layers.0.self_attn.out_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.0.self_attn.out_proj.bias", {8}},
      {"vision_model.encoder.layers.0.layer_norm1.weight", {8}},
      {"vision_model.encoder.layers.0.layer_norm1.bias", {8}},
      {"vision_model.encoder.layers.0.mlp.fc1.weight", {16, 8}},
      {"vision_model.encoder.layers.0.mlp.fc1.bias", {16}},
      {"vision_model.encoder.layers.0.mlp.fc2.weight", {8, 16}},
      {"vision_model.encoder.layers.0.mlp.fc2.bias", {8}},
      {"vision_model.encoder.layers.0.layer_norm2.weight", {8}},
      {"vision_model.encoder.layers.0.layer_norm2.bias", {8}},
      {"vision_model.encoder.layers.1.self_attn.k_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.1.self_attn.k_proj.bias", {8}},
      {"vision_model.encoder.layers.1.self_attn.v_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.1.self_attn.v_proj.bias", {8}},
      {"vision_model.encoder.layers.1.self_attn.q_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.1.self_attn.q_proj.bias", {8}},
      {"vision_model.encoder.layers.1.self_attn.out_proj.weight", {8, 8}},
      {"vision_model.encoder.layers.1.self_attn.out_proj.bias", {8}},
      {"vision_model.encoder.layers.1.layer_norm1.weight", {8}},
      {"vision_model.encoder.layers.1.layer_norm1.bias", {8}},
      {"vision_model.encoder.layers.1.mlp.fc1.weight", {16, 8}},
      {"vision_model.encoder.layers.1.mlp.fc1.bias", {16}},
      {"vision_model.encoder.layers.1.mlp.fc2.weight", {8, 16}},
      {"vision_model.encoder.layers.1.mlp.fc2.bias", {8}},
      {"vision_model.encoder.layers.1.layer_norm2.weight", {8}},
      {"vision_model.encoder.layers.1.layer_norm2.bias", {8}},
      {"vision_model.post_layernorm.weight", {8}},
      {"vision_model.post_layernorm.bias", {8}},
      {"visual_projection.weight", {5, 8}},
      {"text_projection.weight", {5, 12}},
  };
  const Clip clip(small_clip(), 1);
  std::map<std::string, Shape> found;
  for (const Parameter& p : clip.parameters()) found.emplace(p.name(), p.value().shape());
  BOOST_TEST(found.size() == clip.parameters().size());
  for (const auto& [name, shape] : expected) {
    BOOST_TEST(found.contains(name), name << " is missing");
    if (found.contains(name)) {
      BOOST_TEST((found.at(name) == shape),
                 name << " is " << to_string(found.at(name)) << ", not " << to_string(shape));
    }
  }
  for (const auto& [name, shape] : found) BOOST_TEST(expected.contains(name), name << " is not expected");
}

// --- what a representation depends on -------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(permuting_samples_permutes_representations) {
  const std::vector<std::size_t> order{3, 0, 4, 1, 2};
  const Clip clip(small_clip(), 2, DType::kFloat64);
  shake(clip.parameters(), 500);
  const Tensor images = small_images(5);
  std::vector<double> moved;
  std::vector<std::vector<std::int32_t>> moved_sentences;
  for (const std::size_t i : order) {
    const auto row = static_cast<std::int64_t>(i);
    const std::vector<double> image = doubles(images.slice(row, row + 1));
    moved.insert(moved.end(), image.begin(), image.end());
    moved_sentences.push_back(kSentences[i]);
  }
  const Tensor image = values_of([&] { return clip.encode_image(images); });
  const Tensor text = values_of([&] { return clip.encode_text(sentences()); });
  const Tensor moved_image = values_of([&] { return clip.encode_image(Tensor::from(moved, images.shape())); });
  const Tensor moved_text = values_of([&] { return clip.encode_text(TokenBatch::pad(moved_sentences)); });
  for (std::size_t k = 0; k < order.size(); ++k) {
    const auto from = static_cast<std::int64_t>(order[k]), to = static_cast<std::int64_t>(k);
    BOOST_TEST(max_difference(moved_image.slice(to, to + 1), image.slice(from, from + 1)) <= 1e-12);
    BOOST_TEST(max_difference(moved_text.slice(to, to + 1), text.slice(from, from + 1)) <= 1e-12);
    // and different samples have different representations
    const std::int64_t other = (from + 1) % 5;
    BOOST_TEST(max_difference(moved_image.slice(to, to + 1), image.slice(other, other + 1)) > 1e-3);
    BOOST_TEST(max_difference(moved_text.slice(to, to + 1), text.slice(other, other + 1)) > 1e-3);
  }
}

BOOST_AUTO_TEST_CASE(representations_have_length_one) {
  const Clip clip(small_clip(), 2, DType::kFloat64);
  for (const Tensor& r : {values_of([&] { return clip.encode_image(small_images(5)); }),
                          values_of([&] { return clip.encode_text(sentences()); })}) {
    BOOST_TEST((r.shape() == Shape{5, 5}));
    for (std::int64_t i = 0; i < 5; ++i) {
      double squares = 0;
      for (const double v : doubles(r.slice(i, i + 1))) squares += v * v;
      BOOST_TEST(std::abs(squares - 1) <= 1e-12);
    }
  }
}

BOOST_AUTO_TEST_CASE(padding_changes_no_representation) {
  for (const TextPooling pooling : {TextPooling::kLastToken, TextPooling::kMean}) {
    for (const bool causal : {true, false}) {
      TextConfig config = small_text();
      config.pooling = pooling;
      config.causal = causal;
      const Builder builder(7, DType::kFloat64);
      const TextTransformer text(builder, config);
      shake(builder.parameters(), 600);
      BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling) << (causal ? ", causal" : "")) {
        for (const std::int32_t pad_id : {0, 9}) {
          const Tensor together = values_of([&] { return text(TokenBatch::pad(kSentences, pad_id, 6)); });
          for (std::size_t i = 0; i < kSentences.size(); ++i) {
            TokenBatch alone = TokenBatch::pad(std::span(&kSentences[i], 1));
            alone.valid = Tensor();
            const auto row = static_cast<std::int64_t>(i);
            BOOST_TEST(max_difference(together.slice(row, row + 1), values_of([&] { return text(alone); })) <= 1e-12);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(later_tokens_do_not_reach_earlier_ones_under_the_causal_mask) {
  const Builder builder(8, DType::kFloat64);
  const TransformerEncoder encoder(builder, {.width = 8, .layers = 3, .heads = 2, .mlp_width = 16});
  shake(builder.parameters(), 700);
  Tensor x = random_values({2, 5, 8}, 1), y = x.clone();
  for (std::int64_t sample = 0; sample < 2; ++sample) {
    // Token 3, unevenly: a norm would undo an equal shift of all its elements.
    for (std::int64_t j = 0; j < 8; ++j) y.mutable_data<double>()[(sample * 5 + 3) * 8 + j] += j % 3 == 0 ? 1 : 0;
  }
  for (const bool causal : {true, false}) {
    const Tensor before = values_of([&] { return encoder(x, {.causal = causal, .valid = {}}); });
    const Tensor after = values_of([&] { return encoder(y, {.causal = causal, .valid = {}}); });
    for (std::int64_t sample = 0; sample < 2; ++sample) {
      for (std::int64_t token = 0; token < 5; ++token) {
        const Tensor a = before.slice(sample, sample + 1).reshape({5, 8}).slice(token, token + 1);
        const Tensor b = after.slice(sample, sample + 1).reshape({5, 8}).slice(token, token + 1);
        BOOST_TEST_CONTEXT("causal " << causal << ", token " << token) {
          if (causal && token < 3) BOOST_TEST(max_difference(a, b) <= 1e-14);
          else BOOST_TEST(max_difference(a, b) > 1e-6);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(tokens_after_the_pooled_one_do_not_reach_it) {
  const Builder builder(8, DType::kFloat64);
  const TextTransformer text(builder, small_text());
  shake(builder.parameters(), 700);
  // Token 1 is pooled; the valid token before it is seen, the others are not.
  const auto pooled = [&](const std::vector<std::int32_t>& ids, const std::vector<double>& valid) {
    const TokenBatch batch{Tensor::from(ids, {1, 4}), Tensor::from(valid, {1, 4}).to(DType::kBool)};
    return values_of([&] { return text(batch); });
  };
  const Tensor reference = pooled({1, 2, 3, 4}, {1, 1, 0, 0});
  BOOST_TEST(max_difference(pooled({1, 2, 8, 7}, {1, 1, 0, 0}), reference) <= 1e-14);
  BOOST_TEST(max_difference(pooled({5, 2, 3, 4}, {1, 1, 0, 0}), reference) > 1e-6);
  BOOST_TEST(max_difference(pooled({1, 2, 3, 4}, {0, 1, 0, 0}), reference) > 1e-6);
  BOOST_TEST(max_difference(pooled({1, 2, 3, 4}, {1, 1, 1, 1}), reference) > 1e-6);
  BOOST_TEST(max_difference(pooled({1, 2, 3, 4}, {1, 1, 1, 0}), pooled({1, 2, 3, 9}, {1, 1, 1, 0})) <= 1e-14);
}

BOOST_AUTO_TEST_CASE(token_batches_pad_and_slice) {
  const TokenBatch batch = TokenBatch::pad(kSentences, 7, 6);
  BOOST_TEST(batch.size() == 5);
  BOOST_TEST((batch.ids.shape() == Shape{5, 6}));
  check_equal(batch.ids.slice(0, 2), {1, 4, 2, 7, 7, 7, 3, 7, 7, 7, 7, 7});
  check_equal(batch.valid.slice(0, 2), {1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0});
  check_equal(batch.slice(1, 3).ids, {3, 7, 7, 7, 7, 7, 5, 6, 7, 8, 9, 7});
  check_equal(batch.slice(1, 3).valid, {1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0});
  BOOST_TEST((sentences().ids.shape() == Shape{5, 5}));
  BOOST_TEST(!(TokenBatch{batch.ids, {}}.slice(1, 2).valid.defined()));
  BOOST_CHECK_THROW(TokenBatch::pad({}), ValueError);
  BOOST_CHECK_EXCEPTION(TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1}, {}}), ValueError,
                        says({"sequence 1", "empty"}));
  BOOST_TEST((TokenBatch::pad(kSentences, 0, 1, 5).ids.shape() == Shape{5, 5}));
  BOOST_CHECK_EXCEPTION(TokenBatch::pad(kSentences, 0, 1, 4), ShapeError,
                        says({"sequence 2", "5 tokens", "at most 4"}));
  BOOST_CHECK_EXCEPTION(TokenBatch::pad(kSentences, 0, 7, 6), ValueError, says({"min_tokens is 7"}));
  BOOST_CHECK_THROW(batch.slice(3, 6), ShapeError);
}

// --- weights --------------------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(weights_come_back_from_their_file) {
  const Folder folder;
  for (const DType written : {DType::kFloat32, DType::kFloat64}) {
    for (const DType read : {DType::kFloat32, DType::kFloat64}) {
      const Clip from(small_clip(), 11, written), to(small_clip(), 12, read);
      shake(from.parameters(), 800);
      const Parameter handle = to.parameters()[3];
      save_weights(folder / "weights.safetensors", from.parameters());
      load_weights(folder / "weights.safetensors", to.parameters());
      for (std::size_t i = 0; i < from.parameters().size(); ++i) {
        const Tensor expected = from.parameters()[i].value().to(read);
        BOOST_TEST(same_bits(to.parameters()[i].value(), expected), from.parameters()[i].name());
        BOOST_TEST(!to.parameters()[i].value().shares_storage(from.parameters()[i].value()));
      }
      BOOST_TEST(same_bits(handle.value(), to.parameters()[3].value()));
      if (read == written) {
        const Tensor images = small_images(2, read);
        BOOST_TEST(same_bits(values_of([&] { return from.encode_image(images); }),
                             values_of([&] { return to.encode_image(images); })));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(weights_load_from_bfloat16) {
  const Folder folder;
  const Clip clip(small_clip(), 11);
  SafetensorsFile file;
  for (const Parameter& p : clip.parameters()) file.tensors.emplace(p.name(), p.value().to(DType::kBFloat16));
  write_safetensors(folder / "bf16.safetensors", file);
  load_weights(folder / "bf16.safetensors", clip.parameters());
  for (const Parameter& p : clip.parameters()) {
    BOOST_TEST(same_bits(p.value(), file.tensors.at(p.name()).to(DType::kFloat32)), p.name());
  }
}

BOOST_AUTO_TEST_CASE(weights_that_do_not_fit_change_nothing) {
  const Folder folder;
  const Clip clip(small_clip(), 13), other(small_clip(), 14);
  const auto before = values_by_name(clip.parameters());
  const std::string path = (folder / "w.safetensors").string();
  const auto refused = [&](const std::vector<std::string>& words, bool strict = true) {
    std::vector<std::string> all = words;
    all.push_back(path);
    BOOST_CHECK_EXCEPTION(load_weights(path, clip.parameters(), strict), FileError, says(all));
    BOOST_TEST(same_values(clip.parameters(), before));
  };
  const auto write = [&](const std::function<void(SafetensorsFile&)>& change) {
    SafetensorsFile file;
    for (const Parameter& p : other.parameters()) file.tensors.emplace(p.name(), p.value().clone());
    change(file);
    write_safetensors(path, file);
  };
  const std::string last = "vision_model.post_layernorm.weight", bias = "text_model.final_layer_norm.bias";

  refused({"open"});
  write([&](auto& file) { file.tensors.erase(last), file.tensors.erase(bias); });
  refused({last, bias, "missing"});
  refused({last, bias, "missing"}, false);
  write([&](auto& file) { file.tensors.emplace("surplus", Tensor::zeros({2})); });
  refused({"'surplus'"});
  write([&](auto& file) { file.tensors[last] = Tensor::zeros({2, 4}); });
  refused({last, "[2, 4]", "[8]"});
  refused({last, "[2, 4]", "[8]"}, false);
  write([&](auto& file) { file.tensors[last] = Tensor::zeros({8}, DType::kInt64); });
  refused({last, "int64", "floating"});

  write([](auto&) {});
  std::string bytes;
  {
    std::ifstream in(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  BOOST_TEST(bytes.size() > 10000u);
  for (const std::size_t length : {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{100}, bytes.size() / 2,
                                   bytes.size() - 1}) {
    BOOST_TEST_CONTEXT("first " << length << " bytes") {
      std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(length));
      refused({});
    }
  }
}

BOOST_AUTO_TEST_CASE(surplus_tensors_are_passed_over_where_asked_to) {
  const Folder folder;
  const Clip clip(small_clip(), 13), other(small_clip(), 14);
  SafetensorsFile file;
  for (const Parameter& p : other.parameters()) file.tensors.emplace(p.name(), p.value());
  // As in older Hugging Face checkpoints.
  file.tensors.emplace("text_model.embeddings.position_ids", Tensor::zeros({1, 6}, DType::kInt64));
  write_safetensors(folder / "w.safetensors", file);
  BOOST_CHECK_EXCEPTION(load_weights(folder / "w.safetensors", clip.parameters()), FileError, says({"position_ids"}));
  load_weights(folder / "w.safetensors", clip.parameters(), false);
  BOOST_TEST(same_values(clip.parameters(), values_by_name(other.parameters())));
}

BOOST_AUTO_TEST_CASE(two_parameters_of_one_name_are_not_saved) {
  const Folder folder;
  const std::vector<Parameter> twins{{"w", Tensor::zeros({2})}, {"w", Tensor::zeros({2})}};
  BOOST_CHECK_EXCEPTION(save_weights(folder / "w.safetensors", twins), ValueError, says({"'w'"}));
  BOOST_TEST(!std::filesystem::exists(folder / "w.safetensors"));
}

// --- initial values -------------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(initial_values_follow_the_seed) {
  const Clip a(small_clip(), 21), same(small_clip(), 21), other(small_clip(), 22);
  BOOST_TEST(same_values(same.parameters(), values_by_name(a.parameters())));
  for (std::size_t i = 0; i < a.parameters().size(); ++i) {
    const Parameter& p = a.parameters()[i];
    const bool constant = p.name().ends_with("bias") || p.name().find("norm") != std::string::npos ||
                          p.name().find("layrnorm") != std::string::npos || p.name() == "logit_scale";
    BOOST_TEST(same_bits(p.value(), other.parameters()[i].value()) == constant, p.name());
  }
  // Parameters of equal shape differ too.
  const std::string layers = "vision_model.encoder.layers.";
  const Tensor q0 = named(a.parameters(), layers + "0.self_attn.q_proj.weight").value();
  BOOST_TEST(!same_bits(q0, named(a.parameters(), layers + "0.self_attn.k_proj.weight").value()));
  BOOST_TEST(!same_bits(q0, named(a.parameters(), layers + "1.self_attn.q_proj.weight").value()));
}

BOOST_AUTO_TEST_CASE(initial_values_do_not_depend_on_the_order_of_construction) {
  const Builder one(31, DType::kFloat64), two(31, DType::kFloat64);
  const VisionTransformer vision1(one.child("v"), small_vision());
  const TextTransformer text1(one.child("t"), small_text());
  begin_random_step(4, 4);  // nor on the random stream
  const TextTransformer text2(two.child("t"), small_text());
  const VisionTransformer vision2(two.child("v"), small_vision());
  BOOST_TEST((random_state() == RandomState{{4, 4, 0}, 0, 0}));
  BOOST_TEST(one.parameters().front().name() != two.parameters().front().name());
  BOOST_TEST(same_values(two.parameters(), values_by_name(one.parameters())));
}

BOOST_AUTO_TEST_CASE(initial_values_agree_between_types) {
  const Clip narrow(small_clip(), 32, DType::kFloat32), wide(small_clip(), 32, DType::kFloat64);
  for (std::size_t i = 0; i < wide.parameters().size(); ++i) {
    BOOST_TEST(same_bits(narrow.parameters()[i].value(), wide.parameters()[i].value().to(DType::kFloat32)));
  }
}

BOOST_AUTO_TEST_CASE(uniform_initial_values_fill_their_range) {
  const Parameter p = Builder(3, DType::kFloat64).parameter("p", {10000}, Init::uniform(-1, 3));
  double mean = 0, squares = 0;
  for (const double v : doubles(p.value())) {
    BOOST_REQUIRE(v >= -1);
    BOOST_REQUIRE(v < 3);
    mean += v / 10000;
    squares += (v - 1) * (v - 1) / 10000;
  }
  BOOST_TEST(std::abs(mean - 1) <= 5 * std::sqrt(4.0 / 3 / 10000));
  BOOST_TEST(std::abs(squares - 4.0 / 3) <= 5 * std::sqrt((16.0 / 5 - 16.0 / 9) / 10000));
  for (const double v : doubles(Builder(3).parameter("c", {4}, Init::constant(2.5)).value())) BOOST_TEST(v == 2.5);
}

void check_normal(const Parameter& p, double deviation) {
  BOOST_TEST_CONTEXT(p.name()) {
    const std::vector<double> x = doubles(p.value());
    const auto n = static_cast<double>(x.size());
    BOOST_REQUIRE(n >= 8000);
    double mean = 0, squares = 0, fourths = 0, neighbours = 0;
    for (const double v : x) mean += v / n;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double z = (x[i] - mean) / deviation;
      squares += z * z / n;
      fourths += z * z * z * z / n;
      if (i > 0) neighbours += z * (x[i - 1] - mean) / deviation / n;
    }
    BOOST_TEST(std::abs(mean) <= 5 * deviation / std::sqrt(n));
    BOOST_TEST(std::abs(std::sqrt(squares) - 1) <= 5 / std::sqrt(2 * n));
    BOOST_TEST(std::abs(fourths - 3) <= 5 * std::sqrt(96 / n));
    BOOST_TEST(std::abs(neighbours) <= 5 / std::sqrt(n));
  }
}

BOOST_AUTO_TEST_CASE(initial_values_have_the_published_deviations) {
  ClipConfig config;
  config.vision = {
      .image_size = 80, .patch_size = 8, .encoder = {.width = 128, .layers = 3, .heads = 4, .mlp_width = 512}};
  config.text = {
      .vocabulary = 500, .max_tokens = 77, .encoder = {.width = 192, .layers = 2, .heads = 4, .mlp_width = 256}};
  config.projection_width = 96;
  config.initial_temperature = 0.05;
  const Clip clip(config, 33);
  const auto of = [&](const std::string& name) -> const Parameter& { return named(clip.parameters(), name); };
  const std::string vision = "vision_model.encoder.layers.2.", text = "text_model.encoder.layers.0.";
  check_normal(of("vision_model.embeddings.patch_embedding.weight"), 0.02);
  check_normal(of("vision_model.embeddings.position_embedding.weight"), 0.01);
  check_normal(of("text_model.embeddings.token_embedding.weight"), 0.02);
  check_normal(of("text_model.embeddings.position_embedding.weight"), 0.01);
  for (const char* name : {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
                           "mlp.fc2.weight"}) {
    check_normal(of(vision + name), 1 / std::sqrt(128.0 * 6));
    check_normal(of(text + name), 1 / std::sqrt(192.0 * 4));
  }
  check_normal(of(vision + "self_attn.out_proj.weight"), 1 / std::sqrt(128.0));
  check_normal(of(text + "self_attn.out_proj.weight"), 1 / std::sqrt(192.0));
  check_normal(of(vision + "mlp.fc1.weight"), 1 / std::sqrt(2 * 128.0));
  check_normal(of(text + "mlp.fc1.weight"), 1 / std::sqrt(2 * 192.0));
  check_normal(of("visual_projection.weight"), 1 / std::sqrt(128.0));
  check_normal(of("text_projection.weight"), 1 / std::sqrt(192.0));
  const std::vector<double> cls = doubles(of("vision_model.embeddings.class_embedding").value());
  double squares = 0;
  for (const double v : cls) squares += v * v;
  BOOST_TEST(std::abs(squares - 1) <= 5 * std::sqrt(2.0 / 128));  // N(0, 1/width)
  BOOST_TEST(std::abs(clip.logit_scale().value().item() - std::log(20.0)) <= 1e-6);
  for (const Parameter& p : clip.parameters()) {
    const bool norm = p.name().find("norm") != std::string::npos;
    if (!p.name().ends_with("bias") && !norm) continue;
    const double expected = norm && p.name().ends_with("weight") ? 1 : 0;
    for (const double v : doubles(p.value())) BOOST_REQUIRE_EQUAL(v, expected);
  }
}

// --- training flag, checkpointing, the cached step ------------------------------------------------------------------

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

BOOST_AUTO_TEST_CASE(activation_checkpointing_keeps_less) {
  const auto kept = [](bool checkpoint) {
    const Clip clip(small_clip(0.3, checkpoint), 51);
    Tape tape;
    {
      const Recording recording(tape);
      clip.encode_image(small_images(5, DType::kFloat32));
    }
    std::size_t bytes = 0;
    for (const Node& node : tape.nodes()) {
      for (const Tensor& t : node.saved) bytes += t.defined() ? t.bytes() : 0;
    }
    return bytes;
  };
  BOOST_TEST(2 * kept(true) < kept(false));
}

BOOST_AUTO_TEST_CASE(cached_step_equals_direct_step) {
  constexpr std::int64_t kSamples = 5;
  for (const bool checkpoint : {false, true}) {
    const Clip clip(small_clip(0.2, checkpoint), 61, DType::kFloat64);
    shake(clip.parameters(), 1000);
    Parameter(clip.logit_scale()).mutable_value().fill(1.5);
    const std::vector<gradcache::Tower> towers{
        {"image", small_images(kSamples), [clip](const Tensor& images) { return clip.encode_image(images); }},
        {"text", sentences(), [clip](const TokenBatch& tokens) { return clip.encode_text(tokens); }}};
    const gradcache::Loss loss = [clip](std::span<const Variable> r) {
      return gradcache::clip_loss(r[0], r[1], clip.logit_scale());
    };
    const auto check = [&](const gradcache::StepOptions& options) {
      begin_random_step(5, 3);
      const gradcache::Comparison c = gradcache::compare(towers, loss, options, clip.parameters());
      BOOST_TEST(c.parameters.size() == clip.parameters().size());
      BOOST_TEST(c.relative_norm <= 1e-12);
      BOOST_TEST(std::abs(c.loss_reference - c.loss_other) <= 1e-12);
      for (const gradcache::ParameterDifference& p : c.parameters) {
        // That gradient is 0 but for rounding, so that nothing is relative to it.
        const double difference = p.name.ends_with("k_proj.bias") ? p.max_absolute : p.max_relative;
        BOOST_TEST(difference <= 1e-12, p.name << ": " << difference);
      }
    };
    for (std::int64_t chunk = 1; chunk <= kSamples + 1; ++chunk) {
      BOOST_TEST_CONTEXT("chunk " << chunk << (checkpoint ? ", checkpointed" : "")) { check({{chunk}}); }
    }
    check({{2, 3}});

    const gradcache::Comparison accumulated = gradcache::compare_steps(
        [&] { return gradcache::direct_step(towers, loss); },
        [&] { return gradcache::accumulated_step(towers, loss, {{2}}); }, clip.parameters());
    BOOST_TEST(accumulated.relative_norm > 1e-2);

    clear_gradients(clip.parameters());
    const gradcache::StepResult step = gradcache::cached_step(towers, loss, {{2}});
    BOOST_TEST(step.parameters.size() == clip.parameters().size());
    for (const Parameter& p : clip.parameters()) BOOST_TEST(p.gradient().defined(), p.name());
  }
}

// --- errors ---------------------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(models_that_cannot_be_built) {
  const auto vision = [](const std::function<void(VisionConfig&)>& change) {
    VisionConfig config = small_vision();
    change(config);
    VisionTransformer(Builder(1), config);
  };
  BOOST_CHECK_NO_THROW(vision([](auto&) {}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.heads = 3; }), ValueError, says({"3 heads", "width of 8"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.heads = 0; }), ValueError, says({"heads 0"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.heads = -2; }), ValueError, says({"heads -2"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.layers = 0; }), ValueError, says({"layers 0"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.mlp_width = 0; }), ValueError, says({"mlp_width 0"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.encoder.width = 0; }), ValueError, says({"width 0"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.patch_size = 3; }), ValueError, says({"patches of 3", "images of 8"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.patch_size = 16; }), ValueError, says({"patches of 16", "images of 8"}));
  BOOST_CHECK_EXCEPTION(vision([](auto& c) { c.patch_size = 0; }), ValueError, says({"patches of 0", "images of 8"}));
  for (const double p : {1.0, -0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    BOOST_CHECK_EXCEPTION(vision([&](auto& c) { c.encoder.dropout = p; }), ValueError, says({"dropout", "0 <= p < 1"}));
  }
  for (const double temperature : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    ClipConfig config = small_clip();
    config.initial_temperature = temperature;
    BOOST_CHECK_EXCEPTION(Clip(config, 1), ValueError, says({"initial_temperature"}));
  }
  TextConfig text = small_text();
  text.encoder.heads = 5;
  BOOST_CHECK_EXCEPTION(TextTransformer(Builder(1), text), ValueError, says({"5 heads", "width of 12"}));
  BOOST_CHECK_EXCEPTION(MultiHeadAttention(Builder(1), 8, 0, {}, {}), ValueError, says({"0 heads"}));
  BOOST_CHECK_EXCEPTION(TransformerBlock(Builder(1), {.width = 8, .heads = 3, .mlp_width = 8}), ValueError,
                        says({"3 heads"}));
  BOOST_CHECK_EXCEPTION(Builder(1, DType::kInt32), DTypeError, says({"int32"}));
}

BOOST_AUTO_TEST_CASE(sizes_below_zero_are_refused_as_documented) {
  VisionConfig config = small_vision();
  config.patch_size = -4;
  BOOST_CHECK_THROW(VisionTransformer(Builder(1), config), ValueError);
  config = small_vision();
  config.encoder.width = -8;
  BOOST_CHECK_THROW(TransformerEncoder(Builder(1), config.encoder), ValueError);
}

BOOST_AUTO_TEST_CASE(parameters_of_one_name_are_refused) {
  const Builder builder(1);
  const Linear first(builder.child("fc"), 2, 3, Init::normal(1));
  BOOST_CHECK_EXCEPTION(Linear(builder.child("fc"), 2, 3, Init::normal(1)), ValueError, says({"'fc.weight'"}));
  BOOST_CHECK_EXCEPTION(builder.parameter("fc.bias", {1}, {}), ValueError, says({"'fc.bias'"}));
  BOOST_TEST(builder.parameters().size() == 2u);
  BOOST_CHECK_NO_THROW(builder.child("fc").parameter("other", {1}, {}));
  BOOST_TEST(builder.parameters().back().name() == "fc.other");
}

BOOST_AUTO_TEST_CASE(images_of_the_wrong_shape) {
  const Builder builder(1);
  const VisionTransformer vision(builder, small_vision());
  for (const Shape& shape : {Shape{2, 3, 8, 4}, Shape{2, 3, 4, 8}, Shape{2, 1, 8, 8}, Shape{3, 8, 8}, Shape{2, 8, 8, 3},
                             Shape{2, 3, 16, 16}, Shape{1, 2, 3, 8, 8}, Shape{8}, Shape{}}) {
    BOOST_TEST_CONTEXT(to_string(shape)) {
      BOOST_CHECK_EXCEPTION(vision(Tensor::zeros(shape)), ShapeError, says({to_string(shape), "[batch, 3, 8, 8]"}));
    }
  }
  BOOST_CHECK_THROW(vision(Tensor::zeros({2, 3, 8, 8}, DType::kFloat64)), DTypeError);
  BOOST_CHECK_THROW(vision(Tensor::zeros({2, 3, 8, 8}, DType::kUInt8)), DTypeError);
  BOOST_CHECK_THROW(vision(Variable()), Error);
  BOOST_TEST((values_of([&] { return vision(Tensor::zeros({1, 3, 8, 8})); }).shape() == Shape{1, 8}));
}

BOOST_AUTO_TEST_CASE(tokens_that_do_not_fit) {
  const Builder builder(1);
  const TextTransformer text(builder, small_text());
  const auto ids = [](const Shape& shape, double id = 1) { return Tensor::full(shape, id, DType::kInt32); };
  BOOST_CHECK_NO_THROW(text({ids({2, 6}), {}}));
  BOOST_CHECK_NO_THROW(text({ids({2, 6}, 10).to(DType::kInt64), {}}));
  BOOST_CHECK_EXCEPTION(text({ids({2, 7}), {}}), ShapeError, says({"[2, 7]", "1 to 6 tokens"}));
  BOOST_CHECK_EXCEPTION(text({ids({2, 0}), {}}), ShapeError, says({"[2, 0]", "1 to 6 tokens"}));
  BOOST_CHECK_THROW(text({ids({6}), {}}), ShapeError);
  BOOST_CHECK_THROW(text({ids({1, 2, 3}), {}}), ShapeError);
  BOOST_CHECK_THROW(text({Tensor(), {}}), Error);
  BOOST_CHECK_EXCEPTION(text({ids({2, 3}, 11), {}}), ValueError, says({"11"}));
  BOOST_CHECK_EXCEPTION(text({ids({2, 3}, -1), {}}), ValueError, says({"-1"}));
  BOOST_CHECK_THROW(text({Tensor::zeros({2, 3}), {}}), DTypeError);
  BOOST_CHECK_THROW(text({ids({2, 3}), Tensor::full({2, 4}, 1, DType::kBool)}), ShapeError);
  BOOST_CHECK_THROW(text({ids({2, 3}), Tensor::full({2, 3}, 1, DType::kFloat32)}), DTypeError);
}

BOOST_AUTO_TEST_CASE(samples_without_a_valid_token) {
  for (const TextPooling pooling : {TextPooling::kLastToken, TextPooling::kMean}) {
    TextConfig config = small_text();
    config.pooling = pooling;
    const Builder builder(1);
    const TextTransformer text(builder, config);
    TokenBatch tokens = TokenBatch::pad(std::vector<std::vector<std::int32_t>>{{1, 2}, {3, 4}});
    tokens.valid = Tensor::from(std::vector<double>{1, 1, 0, 0}, {2, 2}).to(DType::kBool);
    BOOST_TEST_CONTEXT("pooling " << static_cast<int>(pooling)) {
      BOOST_CHECK_EXCEPTION(text(tokens), ValueError, says({"sample 1"}));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
