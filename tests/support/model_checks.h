#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checks.h"
#include "tapecache/autograd/tape.h"
#include "tapecache/core/files.h"
#include "tapecache/models/clip.h"

namespace tapecache::testing {

/// Moves every parameter by up to 0.4, so that no bias is 0, no norm is the identity and no derivative is tiny.
inline void shake(std::span<const Parameter> parameters, std::uint64_t seed) {
  for (Parameter p : parameters) {
    const std::vector<double> move = doubles(random_values(p.value().shape(), ++seed));
    std::vector<double> values = doubles(p.value());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += 0.4 * move[i];
    p.assign(Tensor::from(values, p.value().shape()).to(p.value().dtype()));
  }
}

inline void clear_gradients(std::span<const Parameter> parameters) {
  for (Parameter p : parameters) p.clear_gradient();
}

/// The parameters as a file of weights holds them.
inline SafetensorsFile file_of(std::span<const Parameter> parameters, const std::string& prefix = "") {
  SafetensorsFile file;
  for (const Parameter& p : parameters) file.tensors.emplace(prefix + p.name(), p.value().clone());
  return file;
}

using Forward = std::function<Variable()>;

inline Tensor values_of(const Forward& forward) {
  const NoRecording off;
  return forward().value();
}

/// Leaves in the parameters the gradient of <c, f> for a cotangent drawn from `seed`, and gives that cotangent.
inline std::vector<double> run_backward(const Forward& forward, std::uint64_t seed = 5) {
  Tape tape;
  Variable y;
  {
    const Recording recording(tape);
    y = forward();
  }
  const Tensor cotangent = random_values(y.shape(), seed, y.dtype()).to(y.device());
  inject(tape, std::span(&y, 1), std::span(&cotangent, 1));
  return doubles(cotangent);
}

inline models::VisionConfig small_vision() {
  return {.image_size = 8,
          .patch_size = 4,
          .channels = 3,
          .pooling = models::VisionConfig::Pooling::kCls,
          .encoder = {.width = 8, .layers = 2, .heads = 2, .mlp_width = 16}};
}

inline models::TextConfig small_text() {
  return {.vocabulary = 11,
          .max_tokens = 6,
          .causal = true,
          .pooling = models::TextConfig::Pooling::kLastToken,
          .encoder = {.width = 12, .layers = 2, .heads = 3, .mlp_width = 20}};
}

inline models::ClipConfig small_clip(double dropout = 0, bool checkpoint = false) {
  models::ClipConfig config{.vision = small_vision(), .text = small_text(), .projection_width = 5};
  config.vision.encoder.dropout = config.text.encoder.dropout = dropout;
  config.vision.encoder.checkpoint = config.text.encoder.checkpoint = checkpoint;
  return config;
}

inline const std::vector<std::vector<std::int32_t>> kSentences{{1, 4, 2}, {3}, {5, 6, 7, 8, 9}, {10, 0}, {2, 2, 1, 7}};

inline models::TokenBatch sentences() { return models::TokenBatch::pad(kSentences); }

inline Tensor small_images(std::int64_t count, DType dtype = DType::kFloat64) {
  return random_values({count, 3, 8, 8}, 41, dtype);
}

inline std::map<std::string, Tensor> values_by_name(std::span<const Parameter> parameters) {
  std::map<std::string, Tensor> values;
  for (const Parameter& p : parameters) values.emplace(p.name(), p.value().clone());
  return values;
}

inline bool same_values(std::span<const Parameter> parameters, const std::map<std::string, Tensor>& values) {
  return parameters.size() == values.size() && std::all_of(parameters.begin(), parameters.end(), [&](const auto& p) {
           return values.contains(p.name()) && same_bits(p.value(), values.at(p.name()));
         });
}

/// That these parameters are there, with these shapes, and no others.
inline void check_names(std::span<const Parameter> parameters, const std::map<std::string, Shape>& expected) {
  std::map<std::string, Shape> found;
  for (const Parameter& p : parameters) found.emplace(p.name(), p.value().shape());
  BOOST_TEST(found.size() == parameters.size());
  for (const auto& [name, shape] : expected) {
    BOOST_TEST(found.contains(name), name << " is missing");
    if (found.contains(name)) {
      BOOST_TEST((found.at(name) == shape),
                 name << " is " << to_string(found.at(name)) << ", not " << to_string(shape));
    }
  }
  for (const auto& [name, shape] : found) BOOST_TEST(expected.contains(name), name << " is not expected");
}

inline const Parameter& named(std::span<const Parameter> parameters, const std::string& name) {
  const auto found =
      std::find_if(parameters.begin(), parameters.end(), [&](const auto& p) { return p.name() == name; });
  BOOST_REQUIRE_MESSAGE(found != parameters.end(), "no parameter is named " << name);
  return *found;
}

}  // namespace tapecache::testing
