#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "checks.h"
#include "devices.h"
#include "tapecache/core/random.h"
#include "tapecache/gradcache/grad_cache.h"
#include "tapecache/gradcache/step.h"
#include "tapecache/losses/losses.h"
#include "tapecache/ops/elementwise.h"
#include "tapecache/ops/linear.h"
#include "tapecache/ops/normalize.h"
#include "tapecache/ops/reduce.h"

namespace tapecache::testing {

using gradcache::Comparison;
using gradcache::Loss;
using gradcache::Tower;

/// Values on the device under test.
inline Tensor device_values(const Shape& shape, std::uint64_t seed, DType dtype = DType::kFloat64) {
  return random_values(shape, seed, dtype).to(kDevice);
}

/// The options of a step on the device under test.
inline gradcache::StepOptions device_options(std::vector<std::int64_t> chunk_sizes = {}) {
  gradcache::StepOptions options{.cut = gradcache::ChunkSizes(std::move(chunk_sizes))};
  options.device = kDevice;
  return options;
}

/// Takes the gradients out of the parameters.
inline std::vector<Tensor> gradients_of(std::span<const Parameter> parameters) {
  std::vector<Tensor> gradients;
  for (Parameter p : parameters) {
    gradients.push_back(p.gradient());
    p.clear_gradient();
  }
  return gradients;
}

/// Two layers with dropout and a normalised output.
struct Encoder {
  Parameter w1, b1, w2;
  double dropout = 0;

  Encoder(std::uint64_t seed, DType dtype, double p, std::int64_t in = 5, std::int64_t hidden = 7, std::int64_t out = 4,
          Device device = kDevice)
      : w1("w1", random_values({hidden, in}, seed, dtype).to(device)),
        b1("b1", random_values({hidden}, seed + 1, dtype).to(device)),
        w2("w2", random_values({out, hidden}, seed + 2, dtype).to(device)),
        dropout(p) {}

  Variable operator()(const Tensor& x) const {
    const Variable hidden = ops::dropout(ops::tanh(ops::linear(x, w1, b1)), dropout);
    return ops::l2_normalize(ops::dropout(ops::linear(hidden, w2), dropout));
  }
  std::vector<Parameter> parameters() const { return {w1, b1, w2}; }
};

inline std::vector<Parameter> joined(std::initializer_list<std::vector<Parameter>> lists) {
  std::vector<Parameter> all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

struct ClipSetup {
  std::int64_t n;
  Encoder image, text;
  Parameter log_scale;
  Tensor images, texts;

  explicit ClipSetup(std::int64_t samples, DType dtype = DType::kFloat64, double dropout = 0.0, Device device = kDevice)
      : n(samples),
        image(10, dtype, dropout, 5, 7, 4, device),
        text(20, dtype, dropout, 5, 7, 4, device),
        log_scale("log_scale", Tensor::full({}, 1.5, dtype, device)),
        images(random_values({samples, 5}, 30, dtype).to(device)),
        texts(random_values({samples, 5}, 31, dtype).to(device)) {}

  std::vector<Tower> towers() const { return {{"image", images, image}, {"text", texts, text}}; }
  Loss loss() const {
    const losses::ClipOptions options{.scale = losses::Scale::from_log(log_scale)};
    return [options](std::span<const Variable> r) { return losses::clip_loss(r[0], r[1], options); };
  }
  std::vector<Parameter> parameters() const { return joined({image.parameters(), text.parameters(), {log_scale}}); }
};

inline Variable pairwise(std::span<const Variable> r) { return losses::info_nce(r[0], r[1]); }

/// The types of a step, and to how much of each parameter's largest gradient two ways to take it agree in them.
inline constexpr std::pair<DType, double> kStepTypes[] = {{DType::kFloat64, 1e-12}, {DType::kFloat32, 1e-5}};

inline void check_equal(const Comparison& c, double tolerance) {
  BOOST_TEST(!c.parameters.empty());
  BOOST_TEST(c.relative_norm <= tolerance);
  BOOST_TEST(std::abs(c.loss_reference - c.loss_other) <= tolerance * std::max(1.0, std::abs(c.loss_reference)));
  for (const auto& p : c.parameters) {
    BOOST_TEST(p.max_relative <= tolerance, p.name << ": " << p.max_relative);
  }
}

/// That two steps from one random state, the first on the device under test and the other on the CPU, give the same
/// loss, representations and gradients, which are taken out of the parameters.
inline void check_alike(const gradcache::StepResult& found, std::span<const Parameter> found_parameters,
                        const gradcache::StepResult& expected, std::span<const Parameter> expected_parameters,
                        double tolerance) {
  using gradcache::StepStatus;
  BOOST_TEST((found.status == StepStatus::kDone && expected.status == StepStatus::kDone));
  BOOST_TEST(std::abs(found.loss.item() - expected.loss.item()) <=
             tolerance * std::max(1.0, std::abs(expected.loss.item())));
  for (std::size_t i = 0; i < expected.representations.size(); ++i) {
    BOOST_TEST((found.representations[i].device() == kDevice));
    BOOST_TEST(max_difference(found.representations[i], expected.representations[i]) <= tolerance);
    BOOST_TEST(std::abs(found.representation_norms[i] - expected.representation_norms[i]) <= 10 * tolerance);
  }
  const std::vector<Tensor> a = gradients_of(found_parameters), b = gradients_of(expected_parameters);
  for (std::size_t i = 0; i < b.size(); ++i) {
    BOOST_REQUIRE((a[i].defined() && b[i].defined()));
    BOOST_TEST((a[i].device() == kDevice));
    BOOST_TEST(max_difference(a[i], b[i]) <= tolerance, expected_parameters[i].name());
  }
}

/// A loss that leaves auxiliary losses alone.
inline gradcache::Loss nothing() {
  return [](std::span<const Variable> r) { return ops::scale(ops::sum(r[0]), 0.0); };
}

/// The encoder with an auxiliary loss of its outputs.
inline auto with_size(const Encoder& encoder, const std::string& name, double weight) {
  return [=](const Tensor& x) {
    const Variable y = encoder(x);
    return gradcache::Encoded{{{"", y}}, {{name, ops::mean(ops::exp(y), 1), weight}}};
  };
}

}  // namespace tapecache::testing
