#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "checks.h"
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

/// Two layers with dropout and a normalised output.
struct Encoder {
  Parameter w1, b1, w2;
  double dropout = 0;

  Encoder(std::uint64_t seed, DType dtype, double p, std::int64_t in = 5, std::int64_t hidden = 7, std::int64_t out = 4)
      : w1("w1", random_values({hidden, in}, seed, dtype)),
        b1("b1", random_values({hidden}, seed + 1, dtype)),
        w2("w2", random_values({out, hidden}, seed + 2, dtype)),
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

  explicit ClipSetup(std::int64_t samples, DType dtype = DType::kFloat64, double dropout = 0.0)
      : n(samples),
        image(10, dtype, dropout),
        text(20, dtype, dropout),
        log_scale("log_scale", Tensor::full({}, 1.5, dtype)),
        images(random_values({samples, 5}, 30, dtype)),
        texts(random_values({samples, 5}, 31, dtype)) {}

  std::vector<Tower> towers() const { return {{"image", images, image}, {"text", texts, text}}; }
  Loss loss() const {
    const losses::ClipOptions options{.scale = losses::Scale::from_log(log_scale)};
    return [options](std::span<const Variable> r) { return losses::clip_loss(r[0], r[1], options); };
  }
  std::vector<Parameter> parameters() const { return joined({image.parameters(), text.parameters(), {log_scale}}); }
};

inline void check_equal(const Comparison& c, double tolerance) {
  BOOST_TEST(!c.parameters.empty());
  BOOST_TEST(c.relative_norm <= tolerance);
  BOOST_TEST(std::abs(c.loss_reference - c.loss_other) <= tolerance * std::max(1.0, std::abs(c.loss_reference)));
  for (const auto& p : c.parameters) {
    BOOST_TEST(p.max_relative <= tolerance, p.name << ": " << p.max_relative);
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
